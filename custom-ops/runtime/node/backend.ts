import { type Backend, type InferenceSession, registerBackend } from 'onnxruntime-node';
import { nativeParts } from './binding.js';
import { NativeSessionHandler } from './session-handler.js';

/** The name under which native sessions are a backend of onnxruntime-common, and an execution provider. */
export const BACKEND_NAME = 'onnxrewrite';

/** Below 0: used when asked for by name, never chosen by default. */
const PRIORITY = -10;

/**
 * Native sessions through onnxruntime-common's own class:
 * `InferenceSession.create(model, { executionProviders: ['onnxrewrite'] })`. The execution providers of the
 * session itself can be given as `{ name: 'onnxrewrite', executionProviders: [...] }`.
 */
const backend: Backend = {
  async init() {
    const parts = nativeParts();
    if (!parts.ok) throw new Error(parts.reason);
  },
  createInferenceSessionHandler: (model, options = {}) => createHandler(model, own(options)),
};

/** Makes the backend known to the copy of onnxruntime-common that onnxruntime-node uses. */
export function register(): void {
  registerBackend(BACKEND_NAME, backend, PRIORITY);
}

/**
 * A native session.
 * @throws Error without a native build, or with ONNX Runtime's message
 */
export async function createHandler(
  model: string | Uint8Array,
  options: InferenceSession.SessionOptions,
): Promise<NativeSessionHandler> {
  const parts = nativeParts();
  if (!parts.ok) throw new Error(parts.reason);
  return NativeSessionHandler.create(parts.binding, parts.operators, model, options);
}

interface OwnProvider extends InferenceSession.ExecutionProviderOption {
  readonly executionProviders?: InferenceSession.SessionOptions['executionProviders'];
}

/** The options with the execution providers named inside our own entry. */
function own(options: InferenceSession.SessionOptions): InferenceSession.SessionOptions {
  const entry = options.executionProviders?.find(
    (provider): provider is OwnProvider => typeof provider === 'object' && provider.name === BACKEND_NAME,
  );
  // onnxruntime-common hands out a proxy, which only answers for single properties.
  return new Proxy(options, {
    get: (target, name) =>
      name === 'executionProviders' ? (entry?.executionProviders ?? []) : Reflect.get(target, name),
  });
}
