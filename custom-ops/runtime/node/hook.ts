import { createRequire } from 'node:module';
import type { Backend } from 'onnxruntime-node';
import { createHandler } from './backend.js';
import { nativeParts } from './binding.js';
import { customNodes } from './placement.js';

const require = createRequire(import.meta.url);

/**
 * Makes sessions that are created through onnxruntime-node itself native where their model has operators of
 * `ai.onnxrewrite`; other models are not touched. It replaces one method of onnxruntime-node's backend object,
 * which is no documented interface: it is looked for, and missed loudly.
 * @returns a function that undoes it
 * @throws Error without a native build, or when onnxruntime-node has no such object
 */
export function hookOnnxruntimeNode(): () => void {
  const parts = nativeParts();
  if (!parts.ok) throw new Error(parts.reason);
  const { onnxruntimeBackend: backend } = require('onnxruntime-node/dist/backend.js') as {
    readonly onnxruntimeBackend?: Backend;
  };
  if (typeof backend?.createInferenceSessionHandler !== 'function') {
    throw new Error('this version of onnxruntime-node has no backend object to hook into');
  }
  const original = backend.createInferenceSessionHandler;
  backend.createInferenceSessionHandler = (model, options) =>
    customNodes(model).length > 0
      ? createHandler(model, options ?? {})
      : original.call(backend, model, options);
  return () => {
    backend.createInferenceSessionHandler = original;
  };
}
