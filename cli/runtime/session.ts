import { env, InferenceSession as OnnxRuntimeSession } from 'onnxruntime-node';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { customNodes } from '../../custom-ops/runtime/node/placement.js';
import type { RuntimeDescription } from '../../rewriter/validation.js';
import { isElementType, type TensorValue } from '../data/tensor.js';
import { PROVIDERS, type Provider } from './providers.js';

/** A model ready to run. */
export interface ModelSession {
  readonly runtime: RuntimeDescription;
  readonly outputNames: readonly string[];
  /**
   * Runs the model.
   * @param fetches names of the outputs to compute; all of them when absent
   * @throws Error with the runtime's message
   */
  run(
    feeds: ReadonlyMap<string, TensorValue>,
    fetches?: readonly string[],
  ): Promise<Map<string, TensorValue>>;
  release(): Promise<void>;
}

/** A model file, or the bytes of a model whose external data is in `folder`. */
export type ModelLocation =
  | { readonly file: string }
  | { readonly bytes: Uint8Array; readonly folder: string };

export interface SessionOptions {
  /** `cpu` when absent. */
  readonly provider?: Provider;
  /** Threads of one operator; the runtime's choice when absent. */
  readonly threads?: number;
  /** Set to load fast at the price of running slower: leaves the graph as it is. */
  readonly unoptimized?: true;
  /** Set to run function bodies in onnxruntime-node's own session, whatever native kernels there are. */
  readonly stock?: true;
}

/** Errors arrive as exceptions; the runtime need not print them as well. */
const FATAL_ONLY = { logSeverityLevel: 4 } as const;

/**
 * Opens a session: the one place that chooses what executes a model.
 * @throws Error with the runtime's message
 */
export async function openSession(
  location: ModelLocation,
  options: SessionOptions = {},
): Promise<ModelSession> {
  const { provider = 'cpu' } = options;
  const settings: OnnxRuntimeSession.SessionOptions = {
    executionProviders: [provider],
    ...FATAL_ONLY,
    ...(options.threads === undefined ? {} : { intraOpNumThreads: options.threads }),
    ...(options.unoptimized ? { graphOptimizationLevel: 'disabled' } : {}),
  };
  const factory = options.stock ? OnnxRuntimeSession : InferenceSession;
  const session =
    'file' in location
      ? await factory.create(location.file, settings)
      : await factory.create(location.bytes, {
          ...settings,
          extra: { session: { model_external_initializers_file_folder_path: location.folder } },
        });
  return {
    runtime: {
      name: 'onnxruntime-node',
      version: env.versions.node ?? 'of unknown version',
      execution_provider: PROVIDERS[provider],
      custom_operators: customOperators(session, 'file' in location ? location.file : location.bytes),
      without_kernel: withoutKernel(session),
    },
    outputNames: session.outputNames,
    async run(feeds, fetches = session.outputNames) {
      const results = await session.run(
        Object.fromEntries(
          [...feeds].map(([name, value]) => [name, new Tensor(value.type, value.data, value.dims)]),
        ),
        fetches,
        FATAL_ONLY,
      );
      return new Map(fetches.map(name => [name, fromRuntime(name, results[name])]));
    },
    release: () => session.release(),
  };
}

function customOperators(
  session: OnnxRuntimeSession,
  model: string | Uint8Array,
): RuntimeDescription['custom_operators'] {
  if (!(session instanceof InferenceSession)) return customNodes(model).length > 0 ? 'function-body' : null;
  const ways = new Set(session.onnxRewrite.placement.map(({ executedBy }) => executedBy));
  if (ways.size > 1) return 'mixed';
  const [way] = ways;
  return way === 'native-kernel' ? 'native-kernels' : (way ?? null);
}

function withoutKernel(session: OnnxRuntimeSession): RuntimeDescription['without_kernel'] {
  if (!(session instanceof InferenceSession)) return [];
  const reasons = new Map<string, string>();
  for (const { operator, reason } of session.onnxRewrite.placement) {
    if (reason !== null) reasons.set(operator, reason);
  }
  return [...reasons].map(([operator, reason]) => ({ operator, reason }));
}

function fromRuntime(name: string, value: Tensor | undefined): TensorValue {
  if (value === undefined || !isElementType(value.type)) {
    throw new Error(`output "${name}" is not a tensor of numbers (${value?.type ?? 'no tensor'})`);
  }
  const { type, dims, data } = value;
  return { type, dims, data: type === 'float16' ? bitsOf(data as Uint16Array) : data } as TensorValue;
}

/** Where JavaScript has a Float16Array, the runtime gives half precision as that. */
function bitsOf({ buffer, byteOffset, length }: Uint16Array): Uint16Array {
  return new Uint16Array(buffer, byteOffset, length);
}
