import { InputError } from '../rewriter/errors.js';

/**
 * A predicate for site ids: `*` stands for any characters, `?` for one, `[0-3]` for one of a class, and a
 * comma separates alternatives.
 */
export function siteGlob(pattern: string): (id: string) => boolean {
  const alternatives = pattern.split(',').map(part => {
    const source = part.replace(/\[[^\]]*\]|[^\w]/g, token => {
      if (token === '*') return '.*';
      if (token === '?') return '.';
      return token.length > 1 ? token.replace(/^\[!/, '[^').replaceAll('\\', '\\\\') : `\\${token}`;
    });
    try {
      return new RegExp(`^${source}$`, 's');
    } catch (error) {
      throw new InputError(
        `--sites: "${part}" is not a pattern`,
        { remedy: 'Use *, ? and [0-9].' },
        { cause: error },
      );
    }
  });
  return id => alternatives.some(expression => expression.test(id));
}
