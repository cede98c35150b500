import { mergeStates, stateQuads, writeOutputs } from '../runtime/web/attention-state.wgsl.js';
import { AttentionTile, tileShape } from '../runtime/web/attention-tile.wgsl.js';
import type { GpuRange, GpuRecorder } from '../runtime/web/gpu-recorder.js';
import type { GpuTensor, WebGpuOperator } from '../runtime/web/operator.js';
import { type AttentionSizes, type OptionalDims, ShapeChecks } from '../runtime/web/shapes.js';
import { type FloatType, THREADS } from '../runtime/web/wgsl.js';
import { attend } from './attend.wgsl.js';
import { levelQuads } from './levels.js';
import { cachedKeys, levelOffsets, type MultiLevelParameters, parametersOf } from './parameters.js';
import { arrange, laterRows } from './rows.wgsl.js';

const OP_TYPE = 'MultiLevelAttention';
const checks = new ShapeChecks(OP_TYPE);

/** Places of inputs and outputs; keys of later levels follow the first level's. */
const PAST_VALUE = 4;
const PAST_KEY = 5;
const PRESENT_VALUE = 2;
const PRESENT_KEY = 3;

/** Workgroups below which keys are divided among several of them, and keys that each has at least. */
const ENOUGH_GROUPS = 512;
const LEAST_PART = 512;

/** `keys` are P + S. */
interface MultiLevelSizes extends AttentionSizes {
  readonly past: number;
}

export const multiLevelAttention: WebGpuOperator = {
  opType: OP_TYPE,
  float32Outputs: new Set(),

  refusal: () => null,

  outputDims(attributes, inputDims) {
    const parameters = parametersOf(attributes);
    const { batch, heads, kvHeads, queries, keys, valueDim } = sizesOf(parameters, inputDims);
    return [
      [batch, heads, queries, valueDim],
      [batch, heads, queries],
      [batch, kvHeads, keys, valueDim],
      ...parameters.ranks.map((rank, level) => [batch, kvHeads, cachedKeys(parameters, level, keys), rank]),
    ];
  },

  record(recorder, attributes, inputs, outputs) {
    const parameters = parametersOf(attributes);
    const sizes = sizesOf(
      parameters,
      inputs.map(input => input?.dims ?? null),
    );
    new MultiLevelCall(recorder, sizes, parameters, inputs, outputs).record();
  },
};

/** @throws InputError when the shapes do not fit together */
function sizesOf(
  parameters: MultiLevelParameters,
  [query, key, value, keyMask, pastValue, ...pastKeys]: readonly OptionalDims[],
): MultiLevelSizes {
  const { ranks, causalOffset } = parameters;
  const [batch = 0, heads = 0, queries = 0, headDim = 0] = checks.ranked(query, 'query', 4);
  const [, kvHeads = 0, fresh = 0] = checks.ranked(key, 'key', 4);
  const valueDim = checks.ranked(value, 'value', 4)[3]!;
  checks.expect(key, 'key', [batch, kvHeads, fresh, headDim]);
  checks.expect(value, 'value', [batch, kvHeads, fresh, valueDim]);
  checks.groupedHeads(heads, kvHeads);
  const sum = ranks.reduce((total, rank) => total + rank, 0);
  if (sum !== headDim) checks.refuse(`ranks add up to ${sum}, and the head size is ${headDim}`);
  const past = pastValue ? checks.ranked(pastValue, 'past_value', 4)[2]! : 0;
  if (pastValue && (queries !== fresh || causalOffset !== null)) {
    checks.refuse('after a cache there are as many queries as keys, and no causal_offset');
  }
  checks.expect(pastValue, 'past_value', [batch, kvHeads, past, valueDim]);
  ranks.forEach((rank, level) => {
    const dims = pastKeys[level];
    if (!dims !== !pastValue) checks.refuse('past_value and all past keys come together or not at all');
    checks.expect(dims, `past_key_${level + 1}`, [batch, kvHeads, cachedKeys(parameters, level, past), rank]);
  });
  checks.expect(keyMask, 'key_mask', [batch, past + fresh]);
  return { batch, heads, kvHeads, queries, past, keys: past + fresh, headDim, valueDim };
}

const groupsOf = (threads: number): number => Math.ceil(threads / THREADS);

/** One call of the operator. */
class MultiLevelCall {
  readonly #query: GpuTensor;
  readonly #key: GpuTensor;
  readonly #value: GpuTensor;
  readonly #type: FloatType;
  /** Groups of four columns of an arranged row. */
  readonly #width: number;
  /** Keys of this call. */
  readonly #fresh: number;

  constructor(
    private readonly recorder: GpuRecorder,
    private readonly sizes: MultiLevelSizes,
    private readonly parameters: MultiLevelParameters,
    private readonly inputs: readonly (GpuTensor | null)[],
    private readonly outputs: readonly (GpuTensor | null)[],
  ) {
    [this.#query, this.#key, this.#value] = inputs as [GpuTensor, GpuTensor, GpuTensor];
    this.#type = this.#query.type as FloatType;
    this.#width = levelQuads(parameters.ranks).at(-1)!;
    this.#fresh = sizes.keys - sizes.past;
  }

  record(): void {
    const value = this.#joinedValues();
    const { batch, heads, queries } = this.sizes;
    if ((this.outputs[0] || this.outputs[1]) && batch * heads * queries > 0) {
      const query = this.#arrangedQueries();
      const key = this.#arrangedKeys();
      const most = Math.max(1, Math.floor(this.#scratchBytes / this.#stateBytes));
      for (let base = 0; base < batch * heads; base += most) {
        this.#attend(query, key, value, base, Math.min(most, batch * heads - base));
      }
      this.recorder.release(query);
      this.recorder.release(key);
    }
    this.#keepKeys();
  }

  /** Of one head. */
  get #stateBytes(): number {
    return this.sizes.queries * stateQuads(this.sizes.valueDim) * 16;
  }

  get #scratchBytes(): number {
    return this.recorder.device.limits.maxStorageBufferBindingSize;
  }

  #scratch(name: string, bytes: number): GpuRange {
    return this.recorder.scratch(`${name} of ${OP_TYPE}`, bytes);
  }

  /** Past and present values; they are what present_value asks for. */
  #joinedValues(): GpuRange {
    const { batch, kvHeads, past, keys, valueDim } = this.sizes;
    const present = this.outputs[PRESENT_VALUE];
    if (!present && past === 0) return this.#value.range;
    const elements = batch * kvHeads * keys * valueDim;
    const joined =
      present?.range ??
      this.#scratch('past and present values', elements * (this.#type === 'float32' ? 4 : 2));
    this.#laterRows(joined, keys, {
      past: this.inputs[PAST_VALUE] ?? null,
      fresh: this.#value,
      columns: valueDim,
      column: 0,
    });
    return joined;
  }

  /** Queries by level, times their factors. */
  #arrangedQueries(): GpuRange {
    const { batch, heads, queries, headDim } = this.sizes;
    const { ranks, levelScale, divide } = this.parameters;
    const scale = (this.parameters.scale ?? 1 / Math.sqrt(headDim)) / (divide === 'count' ? ranks.length : 1);
    const rows = batch * heads * queries;
    const arranged = this.#scratch('queries by level', rows * this.#width * 16);
    this.recorder.dispatch(
      arrange(
        this.#type,
        ranks,
        levelScale.map(factor => factor * scale),
      ),
      {
        rows: queries,
        target_rows: queries,
        first_row: 0,
        target_quads: this.#width,
        first_quad: 0,
        threads: rows * this.#width,
      },
      { source: this.#query.range, arranged },
      groupsOf(rows * this.#width),
    );
    return arranged;
  }

  /**
   * Past and present keys by level. Of a past token only the levels are there whose block is not yet full: no
   * row of this call shares the others with it.
   */
  #arrangedKeys(): GpuRange {
    const { batch, kvHeads, past, keys } = this.sizes;
    const { ranks } = this.parameters;
    const heads = batch * kvHeads;
    const arranged = this.#scratch('keys by level', heads * keys * this.#width * 16);
    const add = (source: GpuRange, given: readonly number[], rows: number, first: number, quad: number) => {
      const threads = heads * rows * levelQuads(given).at(-1)!;
      this.recorder.dispatch(
        arrange(this.#type, given, null),
        {
          rows,
          target_rows: keys,
          first_row: first,
          target_quads: this.#width,
          first_quad: quad,
          threads,
        },
        { source, arranged },
        groupsOf(threads),
      );
    };
    add(this.#key.range, ranks, this.#fresh, past, 0);
    const starts = levelQuads(ranks);
    ranks.forEach((rank, level) => {
      const cached = this.inputs[PAST_KEY + level];
      const rows = cached?.dims[2] ?? 0;
      if (cached) add(cached.range, [rank], rows, past - rows, starts[level]!);
    });
    return arranged;
  }

  #attend(query: GpuRange, key: GpuRange, value: GpuRange, base: number, count: number): void {
    const { recorder } = this;
    const { heads, kvHeads, queries, keys, valueDim } = this.sizes;
    const { ranks, block, causal, causalOffset, divide } = this.parameters;
    const mask = this.inputs[3]?.range ?? null;
    const shape = tileShape(recorder.device, 4 * this.#width);
    const tiles = Math.ceil(queries / new AttentionTile(shape).height);
    const { parts, partKeys } = this.#parts(tiles * count, count, shape.keys);
    const state = this.#scratch('row states', parts * count * this.#stateBytes);
    recorder.dispatch(
      attend({
        ranks,
        type: this.#type,
        valueDim,
        tile: shape,
        masked: mask !== null,
        causal,
        divided: divide === 'shared',
      }),
      {
        heads,
        kv_heads: kvHeads,
        head_base: base,
        head_count: count,
        queries,
        keys,
        origin: causalOffset ?? keys - queries,
        block,
        tiles,
        parts,
        part_keys: partKeys,
      },
      { arranged_query: query, arranged_key: key, value, state, mask },
      count * parts * tiles,
    );
    const merged = this.#merged(state, parts, count);
    const rows = { stateRows: queries, skip: 0, queries, valueDim, headBase: base, headCount: count };
    writeOutputs(recorder, rows, merged, this.outputs[0] ?? null, this.outputs[1] ?? null);
    recorder.release(merged);
  }

  /** Keys are divided where rows alone would not occupy the device, as in a decoding step. */
  #parts(groups: number, heads: number, tileKeys: number): { parts: number; partKeys: number } {
    const { keys } = this.sizes;
    const wanted = Math.ceil(ENOUGH_GROUPS / groups);
    const most = Math.floor(this.#scratchBytes / (heads * this.#stateBytes));
    const parts = Math.max(1, Math.min(wanted, most, Math.floor(keys / LEAST_PART)));
    const partKeys = Math.max(1, Math.ceil(keys / parts / tileKeys)) * tileKeys;
    return { parts: Math.max(1, Math.ceil(keys / partKeys)), partKeys };
  }

  #merged(state: GpuRange, parts: number, heads: number): GpuRange {
    if (parts === 1) return state;
    const rows = heads * this.sizes.queries;
    const threads = rows * stateQuads(this.sizes.valueDim);
    const merged = this.#scratch('merged states', threads * 16);
    this.recorder.dispatch(
      mergeStates(this.sizes.valueDim),
      { rows, parts, threads },
      { state, merged },
      groupsOf(threads),
    );
    this.recorder.release(state);
    return merged;
  }

  /** The keys of each level's block that is not yet full. */
  #keepKeys(): void {
    const offsets = levelOffsets(this.parameters);
    this.parameters.ranks.forEach((columns, level) => {
      const result = this.outputs[PRESENT_KEY + level];
      if (!result) return;
      const past = this.inputs[PAST_KEY + level] ?? null;
      const kept = cachedKeys(this.parameters, level, this.sizes.keys);
      this.#laterRows(result.range, kept, { past, fresh: this.#key, columns, column: offsets[level]! });
    });
  }

  /** The last `kept` rows of `past` followed by some columns of `fresh`. */
  #laterRows(
    result: GpuRange,
    kept: number,
    rows: {
      readonly past: GpuTensor | null;
      readonly fresh: GpuTensor;
      readonly columns: number;
      readonly column: number;
    },
  ): void {
    const { batch, kvHeads } = this.sizes;
    const { past, fresh, columns, column } = rows;
    const freshKept = Math.min(kept, this.#fresh);
    const pastKept = kept - freshKept;
    const elements = batch * kvHeads * kept * columns;
    this.recorder.dispatch(
      laterRows(this.#type, past !== null),
      {
        columns,
        past_kept: pastKept,
        past_skip: (past?.dims[2] ?? 0) - pastKept,
        fresh_kept: freshKept,
        fresh_skip: this.#fresh - freshKept,
        fresh_columns: fresh.dims[3]!,
        fresh_column: column,
        elements,
      },
      { past: past?.range ?? null, fresh: fresh.range, result },
      groupsOf(this.#type === 'float32' ? elements : elements / 2),
    );
  }
}
