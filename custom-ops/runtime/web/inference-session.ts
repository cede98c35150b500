import type * as Ort from 'onnxruntime-common';
import { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import type { Node } from '../../../rewriter/graph/node.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import type { ValueInfo } from '../../../rewriter/onnx/model-info.js';
import { DOMAIN } from '../../operator.js';
import { checkFeeds } from './check-feeds.js';
import { ExternalFiles, fetchBytes } from './external-files.js';
import { GpuLimitError, GpuLostError, GpuMemoryError } from './gpu-limit-error.js';
import { checkDevice } from './gpu-loss.js';
import { loadKernels } from './kernels.js';
import { onnxRuntimeLock } from './lock.js';
import { attributesOf } from './node-attributes.js';
import type { WebGpuOperator } from './operator.js';
import { PartitionError } from './partition-error.js';
import { PartitionedSession } from './partitioned-session.js';
import { tensorType } from './tensor-type.js';

type Tensor = Ort.Tensor;
type SessionOptions = Ort.InferenceSession.SessionOptions;

export interface WebSessionOptions extends SessionOptions {
  /** onnxruntime-web as the page has it; `onnxruntime-web/webgpu` is imported when this is absent. */
  readonly onnxruntime?: typeof Ort;
  /** Hears why something runs elsewhere than on WebGPU kernels; the console does by default. */
  readonly onNotice?: (message: string) => void;
}

/** How a session runs its model. */
export interface Execution {
  readonly provider: 'webgpu' | 'wasm';
  /** Nodes of this project's operators that run on WebGPU kernels, and those that run as function bodies. */
  readonly kernels: number;
  readonly functionBodies: number;
  /** Sessions of ONNX Runtime that the model was cut into. */
  readonly parts: number;
  /** Why not everything runs on WebGPU kernels; null when it does. */
  readonly reason: string | null;
}

/**
 * A session with the interface of onnxruntime-web's, for models with this project's operators. On WebGPU the
 * model is cut at those operators, which run on kernels of their own. Where WebGPU is missing or too small the
 * whole model runs on wasm through the operators' function bodies, and {@link execution} says so. Calls are
 * queued: any number may be under way.
 */
export class InferenceSession implements Ort.InferenceSession {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly inputMetadata: readonly Ort.InferenceSession.ValueMetadata[];
  readonly outputMetadata: readonly Ort.InferenceSession.ValueMetadata[];
  readonly #inputs: readonly ValueInfo[];
  #execution: Execution;
  #partitioned: PartitionedSession | null = null;
  #whole: Ort.InferenceSession | null = null;

  private constructor(
    private readonly ort: typeof Ort,
    private readonly model: Uint8Array,
    private readonly graph: ModelGraph,
    private readonly files: ExternalFiles,
    private readonly options: WebSessionOptions,
  ) {
    const { initializers, inputs, outputs } = graph.model.graph;
    const stored = new Set(initializers.map(({ name }) => name));
    this.#inputs = inputs.filter(({ name }) => !stored.has(name));
    this.inputMetadata = this.#inputs.map(metadata);
    this.outputMetadata = outputs.map(metadata);
    this.inputNames = this.#inputs.map(({ name }) => name);
    this.outputNames = outputs.map(({ name }) => name);
    this.#execution = { provider: 'wasm', kernels: 0, functionBodies: 0, parts: 0, reason: null };
  }

  /**
   * @param model an address, or the bytes of the model
   * @throws InputError when the model is damaged, or external data that it names is missing or too short
   */
  static create(
    model: string | ArrayBufferLike | Uint8Array,
    options?: WebSessionOptions,
  ): Promise<InferenceSession>;
  static create(
    model: ArrayBufferLike,
    byteOffset: number,
    byteLength?: number,
    options?: WebSessionOptions,
  ): Promise<InferenceSession>;
  static async create(
    model: string | ArrayBufferLike | Uint8Array,
    second: WebSessionOptions | number = {},
    byteLength?: number,
    last: WebSessionOptions = {},
  ): Promise<InferenceSession> {
    const options = typeof second === 'number' ? last : second;
    const bytes =
      typeof second === 'number' ? new Uint8Array(model as ArrayBufferLike, second, byteLength) : model;
    const loaded =
      typeof bytes === 'string'
        ? await fetchBytes(bytes)
        : bytes instanceof Uint8Array
          ? bytes
          : new Uint8Array(bytes);
    const files = new ExternalFiles(options.externalData);
    const graph = new ModelGraph(decodeModel(loaded, { sidecars: files }));
    await files.load(graph.model);
    const ort = options.onnxruntime ?? (await import('onnxruntime-web/webgpu'));
    const session = new InferenceSession(ort, loaded, graph, files, options);
    await onnxRuntimeLock.run(() => session.#open());
    files.unload();
    return session;
  }

  get execution(): Execution {
    return this.#execution;
  }

  /** Bytes of GPU memory held for operators between runs; what ONNX Runtime holds is not in it. */
  get scratchBytes(): number {
    return this.#partitioned?.scratchBytes ?? 0;
  }

  run(
    feeds: Ort.InferenceSession.FeedsType,
    options?: Ort.InferenceSession.RunOptions,
  ): Promise<Ort.InferenceSession.ReturnType>;
  run(
    feeds: Ort.InferenceSession.FeedsType,
    fetches: Ort.InferenceSession.FetchesType,
    options?: Ort.InferenceSession.RunOptions,
  ): Promise<Ort.InferenceSession.ReturnType>;
  async run(
    feeds: Ort.InferenceSession.FeedsType,
    second: Ort.InferenceSession.FetchesType | Ort.InferenceSession.RunOptions = {},
    third?: Ort.InferenceSession.RunOptions,
  ): Promise<Ort.InferenceSession.ReturnType> {
    const isFetches =
      third !== undefined || Array.isArray(second) || this.outputNames.some(name => name in second);
    const fetches = isFetches ? (second as Ort.InferenceSession.FetchesType) : [];
    const options = (isFetches ? third : (second as Ort.InferenceSession.RunOptions)) ?? {};
    const wanted = this.#wanted(fetches);
    const given: Parameters<typeof checkFeeds>[1] = feeds;
    checkFeeds(this.#inputs, given);
    return onnxRuntimeLock.run(() => this.#run(given, wanted, options));
  }

  async release(): Promise<void> {
    await onnxRuntimeLock.run(async () => {
      await this.#partitioned?.release();
      await this.#whole?.release();
      this.#partitioned = null;
      this.#whole = null;
    });
  }

  startProfiling(): void {
    this.#whole?.startProfiling();
  }

  endProfiling(): void {
    this.#whole?.endProfiling();
  }

  #wanted(fetches: Ort.InferenceSession.FetchesType): readonly string[] {
    const names = Array.isArray(fetches) ? (fetches as readonly string[]) : Object.keys(fetches);
    if (!Array.isArray(fetches) && Object.values(fetches).some(value => value !== null)) {
      throw new Error("outputs cannot be allocated beforehand: give names, or null, in 'fetches'");
    }
    const unknown = names.find(name => !this.outputNames.includes(name));
    if (unknown !== undefined) throw new Error(`'fetches' names '${unknown}', which is not an output`);
    return names.length > 0 ? names : this.outputNames;
  }

  async #open(): Promise<void> {
    const provider = (this.options.executionProviders ?? ['webgpu']).find(
      entry => (typeof entry === 'string' ? entry : entry.name) === 'webgpu',
    );
    if (!provider) return this.#openWhole(null);
    if (!(await hasAdapter())) return this.#openWhole('there is no WebGPU adapter');
    const { operators, refusals } = await this.#operators();
    try {
      // ONNX Runtime keeps its device, lost or not; there is none before its first session.
      const device = (await this.ort.env.webgpu.device) as GPUDevice | undefined;
      if (device) await checkDevice(device);
      this.#partitioned = await PartitionedSession.create(
        this.ort,
        this.graph,
        node => operators.get(node) ?? null,
        this.files,
        { ...this.#sessionOptions, executionProviders: [provider] },
      );
    } catch (error) {
      if (!callsForWasm(error)) throw error;
      return this.#openWhole(error.message);
    }
    const reason = refusals.length > 0 ? [...new Set(refusals)].join('; ') : null;
    const { parts } = this.#partitioned;
    this.#execution = {
      provider: 'webgpu',
      kernels: operators.size,
      functionBodies: refusals.length,
      parts,
      reason,
    };
    if (reason !== null) this.#notice(`${refusals.length} operators run as function bodies: ${reason}`);
  }

  /** Opens the whole model on wasm; `reason` is null when that was asked for. */
  async #openWhole(reason: string | null): Promise<void> {
    const { executionProviders, preferredOutputLocation: _, ...options } = this.#sessionOptions;
    const asked =
      reason === null && executionProviders ? { executionProviders } : { executionProviders: ['wasm'] };
    const externalData = this.files.optionFor(this.graph.model);
    this.#whole = await this.ort.InferenceSession.create(this.model, {
      ...options,
      ...asked,
      ...externalData,
    });
    this.#execution = {
      provider: 'wasm',
      kernels: 0,
      functionBodies: this.#customNodes.length,
      parts: 1,
      reason,
    };
    if (reason !== null) this.#notice(`The model runs on wasm, without WebGPU kernels: ${reason}`);
  }

  async #run(
    feeds: Readonly<Record<string, Tensor>>,
    wanted: readonly string[],
    options: Ort.InferenceSession.RunOptions,
  ): Promise<Ort.InferenceSession.ReturnType> {
    if (this.#partitioned) {
      try {
        return await this.#partitioned.run(feeds, wanted, options);
      } catch (error) {
        if (!callsForWasm(error)) throw error;
        await this.#partitioned.release();
        this.#partitioned = null;
        await this.files.load(this.graph.model);
        await this.#openWhole(error.message);
        this.files.unload();
      }
    }
    if (!this.#whole) throw new Error('the session has been released');
    return this.#whole.run(await inMainMemory(this.ort, feeds), wanted, options);
  }

  /** Nodes of this project's domain, those in subgraphs too. */
  get #customNodes(): readonly Node[] {
    return [...this.graph.main.withSubgraphs()].flatMap(({ nodes }) =>
      nodes.filter(({ info }) => info.domain === DOMAIN),
    );
  }

  /** The nodes with a kernel, and why the others have none. */
  async #operators(): Promise<{ operators: ReadonlyMap<Node, WebGpuOperator>; refusals: readonly string[] }> {
    const nodes = this.#customNodes;
    const kernels = await loadKernels(nodes.map(({ info }) => info.opType));
    const operators = new Map<Node, WebGpuOperator>();
    const refusals: string[] = [];
    for (const node of nodes) {
      const operator = kernels.get(node.info.opType);
      const refusal =
        node.graph !== this.graph.main
          ? `${node.label} is inside a subgraph`
          : operator
            ? operator.refusal(attributesOf(node))
            : `${node.info.opType} has no WebGPU kernel`;
      if (operator && refusal === null) operators.set(node, operator);
      else refusals.push(refusal!);
    }
    return { operators, refusals };
  }

  /** The options that ONNX Runtime knows, and that are the same for all parts of the model. */
  get #sessionOptions(): SessionOptions {
    const { onnxruntime: _, onNotice: __, externalData: ___, ...options } = this.options;
    return options;
  }

  #notice(message: string): void {
    if (this.options.onNotice) this.options.onNotice(message);
    else console.warn(message);
  }
}

/** `navigator.gpu` alone says nothing: browsers have it without an adapter to go with it. */
async function hasAdapter(): Promise<boolean> {
  return (await globalThis.navigator?.gpu?.requestAdapter()) != null;
}

/** Errors of the device, not of the model or the inputs: wasm can do it. */
function callsForWasm(error: unknown): error is Error {
  return [GpuLimitError, GpuMemoryError, GpuLostError, PartitionError].some(kind => error instanceof kind);
}

async function inMainMemory(
  ort: typeof Ort,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Record<string, Tensor>> {
  const moved: Record<string, Tensor> = {};
  for (const [name, tensor] of Object.entries(feeds)) {
    moved[name] =
      tensor.location === 'cpu' ? tensor : new ort.Tensor(tensor.type, await tensor.getData(), tensor.dims);
  }
  return moved;
}

function metadata({ name, dataType, dims }: ValueInfo): Ort.InferenceSession.ValueMetadata {
  const type = tensorType(dataType);
  if (type === null) return { name, isTensor: false };
  return { name, isTensor: true, type, shape: (dims ?? []).map((dim, axis) => dim ?? `${name}_${axis}`) };
}
