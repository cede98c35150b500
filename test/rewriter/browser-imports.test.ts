import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const REWRITER = new URL('../../rewriter/', import.meta.url);
const ENTRIES = [
  'apply.js',
  'find-sites.js',
  'onnx/decode.js',
  'onnx/edit.js',
  'onnx/encode.js',
  'onnx/write.js',
];

/** What a compiled module imports. */
function importsOf(module: URL): string[] {
  const source = readFileSync(module, 'utf8');
  return [...source.matchAll(/^(?:import|export)\s[^;]*?from '([^']+)'/gms)].map(match => match[1]!);
}

describe('the rewriter in browsers', () => {
  it('imports no module of Node and no package', () => {
    const seen = new Set<string>();
    const queue = ENTRIES.map(entry => new URL(entry, REWRITER));
    for (let module = queue.pop(); module !== undefined; module = queue.pop()) {
      if (seen.has(module.href)) continue;
      seen.add(module.href);
      for (const specifier of importsOf(module)) {
        if (specifier.startsWith('.')) queue.push(new URL(specifier, module));
        else assert.fail(`${relative(fileURLToPath(REWRITER), fileURLToPath(module))} imports ${specifier}`);
      }
    }
    assert.ok(seen.size > ENTRIES.length);
  });
});
