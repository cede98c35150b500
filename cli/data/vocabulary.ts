import { InputError } from '../../rewriter/errors.js';
import type { ModelInput } from './model-inputs.js';

/**
 * Checks ids that an input is to take.
 * @param file where they come from
 * @throws InputError when there is one that the model does not have
 */
export function checkVocabulary(
  file: string,
  { name, vocabulary }: ModelInput,
  ids: ArrayLike<number>,
  remedy: string,
): void {
  if (vocabulary === null) return;
  let largest = 0;
  for (let i = 0; i < ids.length; i++) largest = Math.max(largest, ids[i]!);
  if (largest < vocabulary) return;
  throw new InputError(
    `${file}: input "${name}" has the id ${largest}, and the model knows ids up to ${vocabulary - 1}`,
    { file, remedy },
  );
}
