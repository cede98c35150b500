import {
  type InferenceSessionHandler,
  type InferenceSession as Session,
  InferenceSession as SessionFactory,
  type Tensor,
} from 'onnxruntime-node';
import { createHandler } from './backend.js';
import { nativeParts } from './binding.js';
import { cudaRefusal } from './cuda-provider.js';
import { customNodes, type NodePlacement, placementsOf } from './placement.js';
import type { NativeSessionHandler } from './session-handler.js';

/** How a session computes the operators of `ai.onnxrewrite`. */
export interface OnnxRewriteReport {
  /** Whether this is a session of the native build; otherwise onnxruntime-node's own, on function bodies. */
  readonly native: boolean;
  /** Why there is no native session; null when there is. */
  readonly reason: string | null;
  /** One entry per node of the domain; empty for a model without any. */
  readonly placement: readonly NodePlacement[];
}

/**
 * A session like onnxruntime-node's, for any model, with the operators of `ai.onnxrewrite` computed by native
 * kernels. Runs leave the event loop free, inputs are read and outputs handed out where they are, without a
 * copy. Without a native build the session is onnxruntime-node's own and runs function bodies, and
 * `onnxRewrite` says so.
 */
export class InferenceSession implements Session {
  private constructor(
    private readonly session: Session,
    private readonly handler: NativeSessionHandler | null,
    readonly onnxRewrite: OnnxRewriteReport,
  ) {}

  static create(path: string, options?: Session.SessionOptions): Promise<InferenceSession>;
  static create(
    model: ArrayBufferLike | Uint8Array,
    options?: Session.SessionOptions,
  ): Promise<InferenceSession>;
  static create(
    model: ArrayBufferLike,
    byteOffset: number,
    byteLength?: number,
    options?: Session.SessionOptions,
  ): Promise<InferenceSession>;
  /**
   * Opens a model.
   * @throws Error with ONNX Runtime's message; InputError for a file that is no model or an option that means
   * nothing
   */
  static async create(
    model: string | ArrayBufferLike | Uint8Array,
    ...rest: readonly (Session.SessionOptions | number | undefined)[]
  ): Promise<InferenceSession> {
    const [byteOffset, byteLength] = rest.filter(argument => typeof argument === 'number');
    const options = rest.find(argument => typeof argument === 'object') ?? {};
    const source =
      typeof model === 'string' || model instanceof Uint8Array
        ? model
        : new Uint8Array(model, byteOffset, byteLength);
    const parts = nativeParts();
    if (parts.ok) {
      const handler = await createHandler(source, options);
      return new InferenceSession(adopt(handler), handler, {
        native: true,
        reason: null,
        placement: handler.placement,
      });
    }
    const created =
      typeof source === 'string'
        ? SessionFactory.create(source, options)
        : SessionFactory.create(source, options);
    const session = await created.catch((error: unknown) => {
      throw cudaRefusal(error) ?? error;
    });
    const nodes = customNodes(source);
    const { reason } = parts;
    const placement = placementsOf(nodes, new Map(nodes.map(({ operator }) => [operator, reason])));
    return new InferenceSession(session, null, { native: false, reason, placement });
  }

  run(feeds: Session.FeedsType, options?: Session.RunOptions): Promise<Session.ReturnType>;
  run(
    feeds: Session.FeedsType,
    fetches: Session.FetchesType,
    options?: Session.RunOptions,
  ): Promise<Session.ReturnType>;
  run(
    feeds: Session.FeedsType,
    fetches?: Session.FetchesType | Session.RunOptions,
    options?: Session.RunOptions,
  ): Promise<Session.ReturnType> {
    return this.session.run(feeds, fetches as Session.FetchesType, options);
  }

  /**
   * Runs on the calling thread, without a promise: least overhead for small models; blocks the event loop.
   * @param fetches names of outputs, or tensors to write them to; all outputs when absent
   * @throws Error when the session is not native, and for what `run` would reject with
   */
  runSync(
    feeds: Session.FeedsType,
    fetches: Session.FetchesType = this.outputNames,
    options: Session.RunOptions = {},
  ): Session.ReturnType {
    if (!this.handler) throw new Error(`runSync needs the native build: ${this.onnxRewrite.reason}`);
    for (const name of this.inputNames) {
      if (feeds[name] === undefined) throw new Error(`input '${name}' is missing in 'feeds'.`);
    }
    const named = Array.isArray(fetches) ? Object.fromEntries(fetches.map(name => [name, null])) : fetches;
    return this.handler.runSync(feeds, named as Session.NullableOnnxValueMapType, options);
  }

  /**
   * A copy of a tensor in the memory of the session's GPU, to be fed without copying it in every run. With
   * `preferredOutputLocation: 'gpu-buffer'` outputs stay there too, and can be fed to this or other sessions.
   * @throws Error when the session is not native, or not on CUDA
   */
  async upload(tensor: Tensor): Promise<Tensor> {
    if (!this.handler) throw new Error(`upload needs the native build: ${this.onnxRewrite.reason}`);
    return this.handler.upload(tensor);
  }

  /** Gives up the model; runs in flight finish first. */
  release(): Promise<void> {
    return this.session.release();
  }

  startProfiling(): void {
    this.session.startProfiling();
  }

  endProfiling(): void {
    this.session.endProfiling();
  }

  get inputNames(): readonly string[] {
    return this.session.inputNames;
  }

  get outputNames(): readonly string[] {
    return this.session.outputNames;
  }

  get inputMetadata(): readonly Session.ValueMetadata[] {
    return this.session.inputMetadata;
  }

  get outputMetadata(): readonly Session.ValueMetadata[] {
    return this.session.outputMetadata;
  }
}

/**
 * onnxruntime-common's session around a handler: the class checks the arguments of every run. Its constructor
 * is not public, but all that `create` does after it has a handler is to call it.
 */
function adopt(handler: InferenceSessionHandler): Session {
  const Constructor = SessionFactory as unknown as new (handler: InferenceSessionHandler) => Session;
  return new Constructor(handler);
}
