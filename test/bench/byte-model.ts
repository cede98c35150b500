import { readFileSync } from 'node:fs';
import type { InferenceSession as Session } from 'onnxruntime-common';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { attributesOf, type MultipoleParameters } from '../../custom-ops/multipole-attention/parameters.js';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { findSites } from '../../rewriter/find-sites.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { editModel, type ModelEdit } from '../../rewriter/onnx/edit.js';
import { writeToMemory } from '../../rewriter/onnx/write.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { type AttentionSite, isAttention, type Operand, type Site } from '../../rewriter/site.js';

/** Query [1,heads,queries,size], key and value [1,heads,length,size] of one attention site, float32. */
export interface TrainedHeads {
  readonly site: string;
  readonly heads: number;
  /** Keys; the queries may be fewer. */
  readonly length: number;
  readonly size: number;
  readonly causal: boolean;
  /** Factor on query . key that is not yet in them. */
  readonly scale: number;
  readonly query: Float32Array;
  readonly key: Float32Array;
  readonly value: Float32Array;
}

/** A byte-level model of models/byte-lm, with its attention replaced in ways that are to be compared. */
export class ByteModel {
  readonly sites: readonly AttentionSite[];
  readonly causal: boolean;
  readonly #bytes: Uint8Array;

  /** @param sessionOptions of every session that runs a variant */
  constructor(
    readonly file: string,
    private readonly sessionOptions: Session.SessionOptions,
  ) {
    this.#bytes = readFileSync(file);
    this.sites = findSites(new ModelGraph(decodeModel(this.#bytes, { file }))).sites.filter(isAttention);
    this.causal = this.sites.every(({ causal }) => causal);
  }

  /** The model with site n computed by MultipoleAttention under `parameters[n]`. */
  variant(parameters: readonly MultipoleParameters[]): Uint8Array {
    const decide = (sites: readonly Site[]) =>
      sites.filter(isAttention).map((site, n) => ({
        site,
        replacement: {
          site,
          operator: multipoleAttention,
          attributes: attributesOf({ ...parameters[n]!, scale: site.operatorScale }),
        },
        reason: '',
      }));
    return rewriteModel(this.#bytes, decide, { file: this.file }).model;
  }

  /** A session on native kernels: function bodies would be too slow to compare many variants. */
  async open(model: Uint8Array): Promise<InferenceSession> {
    const session = await InferenceSession.create(model, this.sessionOptions);
    const { native, reason } = session.onnxRewrite;
    if (!native) throw new Error(`needs the native build: ${reason}`);
    return session;
  }

  /**
   * What sites see in the variant under `parameters`, which for exact attention is what they see in the model.
   * Layers that come after them are not computed.
   */
  async record(
    ids: BigInt64Array,
    parameters: readonly MultipoleParameters[],
    sites: readonly AttentionSite[] = this.sites,
  ): Promise<TrainedHeads[]> {
    const names = sites.flatMap(({ query, key, value }) => [query.value, key.value, value.value]);
    const variant = decodeModel(this.variant(parameters));
    const edits: ModelEdit[] = [
      ...variant.graph.outputs.map((item): ModelEdit => ({ kind: 'remove', from: variant.graph, item })),
      ...names.map((name): ModelEdit => ({ kind: 'add-output', to: variant.graph, name })),
    ];
    const session = await this.open(writeToMemory(variant.source, editModel(variant, edits)));
    const feeds = { input_ids: new Tensor('int64', ids, [1, ids.length]) };
    const result = await session.run(feeds, names);
    await session.release();
    return sites.map(site => headsOf(site, result));
  }
}

function headsOf(site: AttentionSite, result: Session.ReturnType): TrainedHeads {
  const part = (operand: Operand) => {
    const { dims, data } = result[operand.value] as Tensor;
    if (operand.layout === 'BHND') return { dims, data: data as Float32Array };
    if (operand.layout === 'BHDN') return transposed(dims, data as Float32Array);
    throw new Error(`${site.id}: layout ${operand.layout} is not measured`);
  };
  const [query, key, value] = [part(site.query), part(site.key), part(site.value)];
  const [, heads = 0, length = 0, size = 0] = query.dims;
  return {
    site: site.id,
    heads,
    length,
    size,
    causal: site.causal,
    scale: site.operatorScale ?? 1 / Math.sqrt(size),
    query: query.data,
    key: key.data,
    value: value.data,
  };
}

/** [1,H,D,N] as [1,H,N,D]. */
function transposed(
  dims: readonly number[],
  data: Float32Array,
): { dims: readonly number[]; data: Float32Array } {
  const [batch = 0, heads = 0, size = 0, length = 0] = dims;
  const result = new Float32Array(data.length);
  for (let head = 0; head < batch * heads; head++) {
    for (let d = 0; d < size; d++) {
      for (let n = 0; n < length; n++) {
        result[(head * length + n) * size + d] = data[(head * size + d) * length + n]!;
      }
    }
  }
  return { dims: [batch, heads, length, size], data: result };
}
