import { env, InferenceSession, Tensor } from 'onnxruntime-node';
import { DOMAIN } from '../../custom-ops/operator.js';
import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import type { RuntimeDescription } from '../../rewriter/validation.js';
import { isElementType, type TensorValue } from '../data/tensor.js';

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
  /** Threads of one operator; the runtime's choice when absent. */
  readonly threads?: number;
  /** Set to load fast at the price of running slower: leaves the graph as it is. */
  readonly unoptimized?: true;
}

/** Errors arrive as exceptions; the runtime need not print them as well. */
const FATAL_ONLY = { logSeverityLevel: 4 } as const;

/**
 * Opens a session: the one place that chooses what executes a model.
 * @param usesCustomOperators whether the model has nodes of our domain, which `runtime` then accounts for
 * @throws Error with the runtime's message
 */
export async function openSession(
  location: ModelLocation,
  usesCustomOperators: boolean,
  options: SessionOptions = {},
): Promise<ModelSession> {
  const settings: InferenceSession.SessionOptions = {
    executionProviders: ['cpu'],
    ...FATAL_ONLY,
    ...(options.threads === undefined ? {} : { intraOpNumThreads: options.threads }),
    ...(options.unoptimized ? { graphOptimizationLevel: 'disabled' } : {}),
  };
  const session =
    'file' in location
      ? await InferenceSession.create(location.file, settings)
      : await InferenceSession.create(location.bytes, {
          ...settings,
          extra: { session: { model_external_initializers_file_folder_path: location.folder } },
        });
  return {
    runtime: {
      name: 'onnxruntime-node',
      version: env.versions.node ?? 'of unknown version',
      execution_provider: 'CPU',
      custom_operators: usesCustomOperators ? 'function-body' : null,
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

/** Whether a model has nodes of our domain, in functions and subgraphs too. */
export function usesCustomOperators(model: ModelInfo): boolean {
  return model.opsetImports.has(DOMAIN);
}

function fromRuntime(name: string, value: Tensor | undefined): TensorValue {
  if (value === undefined || !isElementType(value.type)) {
    throw new Error(`output "${name}" is not a tensor of numbers (${value?.type ?? 'no tensor'})`);
  }
  return { type: value.type, dims: value.dims, data: value.data } as TensorValue;
}
