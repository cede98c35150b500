import assert from 'node:assert/strict';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { DOMAIN } from '../../custom-ops/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { applyRewrite, type Rewrite } from '../../rewriter/apply.js';
import { InputError } from '../../rewriter/errors.js';
import type { Graph } from '../../rewriter/graph/graph.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { editModel } from '../../rewriter/onnx/edit.js';
import type { ModelInfo, NodeInfo } from '../../rewriter/onnx/model-info.js';
import {
  DataType,
  type GraphSpec,
  type ModelSpec,
  type NodeSpec,
  type TensorSpec,
  type ValueSpec,
} from '../../rewriter/onnx/spec.js';
import { writeToMemory } from '../../rewriter/onnx/write.js';
import { PATTERN_METADATA, type Replacement, SITE_METADATA } from '../../rewriter/replacement-nodes.js';
import { type AttentionSite, type FusionSite, LAYOUT_AXES, type Layout } from '../../rewriter/site.js';
import { EXACT_ATTENTION } from './exact-attention.js';
import { boolValue, floats, floatValue, int64s, model, node } from './onnx/builders.js';

const [BATCH, HEADS, KV_HEADS, LENGTH, SIZE] = [2, 3, 3, 5, 4];
const SCALE = 0.7;

const transpose = (from: string, to: string, perm: number[]): NodeSpec =>
  node('Transpose', [from], [to], { perm: { type: 'ints', value: perm } });

/** Attention over [B,H,N,D] as exporters write it, from `q`, `k`, `v` to `y` with names ending in `tag`. */
function attention(tag: string, q: string, k: string, v: string, y: string, mask?: string): NodeSpec[] {
  const scores = mask === undefined ? `scaled${tag}` : `masked${tag}`;
  return [
    transpose(k, `kt${tag}`, [0, 1, 3, 2]),
    node('MatMul', [q, `kt${tag}`], [`scores${tag}`]),
    node('Mul', [`scores${tag}`, 'scale'], [`scaled${tag}`]),
    ...(mask === undefined ? [] : [node('Where', [mask, `scaled${tag}`, 'lowest'], [`masked${tag}`])]),
    node('Softmax', [scores], [`weights${tag}`], { axis: { type: 'int', value: -1 } }),
    node('MatMul', [`weights${tag}`, v], [y]),
  ];
}

const CONSTANTS: TensorSpec[] = [floats('scale', [], [SCALE]), floats('lowest', [], [-1e30])];
const qkv = (tag = ''): ValueSpec[] =>
  ['q', 'k', 'v'].map(name => floatValue(`${name}${tag}`, 'b', HEADS, 'n', SIZE));
const HEADED = floatValue('y', 'b', HEADS, 'n', SIZE);

interface SiteOptions {
  readonly id?: string;
  readonly layouts?: Partial<Record<'query' | 'key' | 'value' | 'output', Layout>>;
  readonly keyMask?: AttentionSite['keyMask'];
}

/** The site with these operands in a graph, as a pattern would describe it. */
function site(
  graph: Graph,
  values: readonly [string, string, string, string],
  options: SiteOptions = {},
): AttentionSite {
  const [query, key, value, output] = values;
  const operand = (name: string, role: 'query' | 'key' | 'value' | 'output') => ({
    value: name,
    layout: options.layouts?.[role] ?? ('BHND' as const),
    dataType: DataType.FLOAT,
    projection: null,
  });
  const producer = graph.resolve(output)?.producer;
  assert.ok(producer);
  return {
    computation: 'softmax',
    id: options.id ?? output,
    scope: null,
    graphPath: [],
    pattern: 'test',
    nodes: [producer],
    query: operand(query, 'query'),
    key: operand(key, 'key'),
    value: operand(value, 'value'),
    output: operand(output, 'output'),
    queryHeads: HEADS,
    kvHeads: KV_HEADS,
    headDim: SIZE,
    valueDim: SIZE,
    scale: SCALE,
    sink: null,
    rotary: null,
    cache: null,
    operatorScale: SCALE,
    mask: 'none',
    window: null,
    causal: false,
    keyMask: options.keyMask ?? null,
    alignment: 'equal',
    emptyRow: 'never',
    past: false,
    kind: 'self',
    dtype: 'float32',
    replaceable: true,
    reason: null,
  };
}

function replacement(
  site: AttentionSite,
  settings: Record<string, string | number | readonly number[]> = {},
): Replacement {
  return { site, operator: EXACT_ATTENTION, attributes: EXACT_ATTENTION.resolve(site, settings) };
}

interface Rewritten {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly model: ModelInfo;
  readonly rewrite: Rewrite;
}

function rewrite(bytes: Uint8Array, find: (graph: ModelGraph) => Replacement[]): Rewritten {
  const graph = new ModelGraph(decodeModel(bytes));
  const rewrite = applyRewrite(graph, find(graph));
  const output = writeToMemory(graph.model.source, editModel(graph.model, rewrite.edits));
  const model = decodeModel(output);
  new ModelGraph(model);
  return { bytes: output, model, rewrite };
}

const types = (nodes: readonly NodeInfo[]) => nodes.map(({ opType }) => opType);

/** Runs both models on the same random inputs; all outputs are close. */
async function assertSameOutputs(
  original: Uint8Array,
  rewritten: Uint8Array,
  fixed: Record<string, Tensor> = {},
): Promise<void> {
  const random = new SeededRandom(3);
  const feeds: Record<string, Tensor> = { ...fixed };
  const sizes: Record<string, number> = { b: BATCH, n: LENGTH };
  const { graph } = decodeModel(original);
  const stored = new Set(graph.initializers.map(({ name }) => name));
  for (const { name, dims } of graph.inputs.filter(input => !stored.has(input.name))) {
    const shape = dims!.map(dim => (typeof dim === 'number' ? dim : sizes[dim!]!));
    feeds[name] ??= new Tensor('float32', random.normals(shape.reduce((a, b) => a * b, 1)), shape);
  }
  const [before, after] = await Promise.all([run(original, feeds), run(rewritten, feeds)]);
  assert.deepEqual(Object.keys(after), Object.keys(before));
  for (const [name, expected] of Object.entries(before)) {
    const actual = after[name]!;
    assert.deepEqual(actual.dims, expected.dims);
    const reference = expected.data as Float32Array;
    assert.ok(reference.some(value => Math.abs(value) > 0.01));
    for (const [i, value] of (actual.data as Float32Array).entries()) {
      assert.ok(Math.abs(value - reference[i]!) <= 1e-5, `${name}[${i}]: ${value}, expected ${reference[i]}`);
    }
  }
}

async function run(
  bytes: Uint8Array,
  feeds: Record<string, Tensor>,
): Promise<InferenceSession.OnnxValueMapType> {
  const session = await InferenceSession.create(bytes, { logSeverityLevel: 3 });
  const outputs = await session.run(feeds);
  await session.release();
  return outputs;
}

/** One site over inputs in the operator's own layout. */
function plainModel(rest: Partial<ModelSpec> = {}): Uint8Array {
  return model(
    {
      name: 'g',
      inputs: qkv(),
      outputs: [HEADED],
      initializers: CONSTANTS.slice(0, 1),
      values: [floatValue('scores', 'b', HEADS, 'n', 'n')],
      nodes: attention('', 'q', 'k', 'v', 'y'),
    },
    rest,
  );
}
const plainSite = ({ main }: ModelGraph) => [
  replacement(site(main, ['q', 'k', 'v', 'y'], { id: 'layer.0' })),
];

/** Two layers, the second on the output of the first. */
function twoLayers(): Uint8Array {
  return model({
    name: 'g',
    inputs: qkv(),
    outputs: [HEADED],
    initializers: CONSTANTS,
    nodes: [...attention('1', 'q', 'k', 'v', 'first'), ...attention('2', 'first', 'k', 'first', 'y')],
  });
}
const bothSites =
  (second: Record<string, string | number | readonly number[]> = {}) =>
  ({ main }: ModelGraph) => [
    replacement(site(main, ['first', 'k', 'first', 'y']), second),
    replacement(site(main, ['q', 'k', 'v', 'first'])),
  ];

describe('applyRewrite', () => {
  it('does nothing without replacements', () => {
    const bytes = plainModel();
    assert.deepEqual(rewrite(bytes, () => []).bytes, bytes);
  });

  it('replaces a site by one node with its attributes and origin', async () => {
    const original = plainModel();
    const { bytes, model: rewritten, rewrite: done } = rewrite(original, plainSite);
    await assertSameOutputs(original, bytes);
    assert.deepEqual(types(rewritten.graph.nodes), ['ExactAttention']);
    const [operator] = rewritten.graph.nodes;
    assert.ok(operator);
    assert.deepEqual(
      [operator.domain, operator.overload, operator.inputs, operator.outputs],
      [DOMAIN, '', ['q', 'k', 'v'], ['y']],
    );
    assert.deepEqual(
      [...operator.attributes.values()].map(({ name, type, value }) => [name, type, value]),
      [
        ['scale', 'float', Math.fround(SCALE)],
        ['label', 'string', ''],
        ['per_head', 'ints', []],
      ],
    );
    assert.deepEqual(
      [...operator.metadata],
      [
        [SITE_METADATA, 'layer.0'],
        [PATTERN_METADATA, 'test'],
      ],
    );
    assert.deepEqual([done.removed.length, done.added], [5, 1]);
  });

  it('adds the function, its domain and no more, and removes what only the site used', () => {
    const { model: rewritten } = rewrite(plainModel(), plainSite);
    assert.deepEqual(
      rewritten.functions.map(({ domain, name, overload }) => [domain, name, overload]),
      [[DOMAIN, 'ExactAttention', '']],
    );
    assert.deepEqual(
      [...rewritten.opsetImports],
      [
        ['', 17],
        [DOMAIN, 1],
      ],
    );
    assert.equal(rewritten.irVersion, 8);
    assert.deepEqual(rewritten.graph.initializers, []);
    assert.deepEqual(rewritten.graph.valueInfos, []);
  });

  describe('layouts', () => {
    /** Shape of a layout, the permutations from its axes to [B,H,N,D] and back, and shapes apart and joined. */
    interface Form {
      readonly dims: readonly (number | string)[];
      readonly there: number[];
      readonly back: number[];
      readonly split?: string;
      readonly join?: string;
      readonly adapters: number;
    }
    const swapped = [0, 2, 1, 3];
    const heads = { split: 'split', join: 'join' };
    const forms: Record<Layout, Form> = {
      BHND: { dims: ['b', HEADS, 'n', SIZE], there: [0, 1, 2, 3], back: [0, 1, 2, 3], adapters: 0 },
      BHDN: { dims: ['b', HEADS, SIZE, 'n'], there: [0, 1, 3, 2], back: [0, 1, 3, 2], adapters: 4 },
      BNHD: { dims: ['b', 'n', HEADS, SIZE], there: swapped, back: swapped, adapters: 4 },
      'BN(HD)': { dims: ['b', 'n', HEADS * SIZE], there: swapped, back: swapped, ...heads, adapters: 12 },
      'B(HD)N': {
        dims: ['b', HEADS * SIZE, 'n'],
        there: [0, 1, 3, 2],
        back: [0, 1, 3, 2],
        split: 'split_channels',
        join: 'join_channels',
        adapters: 16,
      },
      'NB(HD)': {
        dims: ['n', 'b', HEADS * SIZE],
        there: [1, 2, 0, 3],
        back: [2, 0, 1, 3],
        ...heads,
        adapters: 12,
      },
      'N(BH)D': {
        dims: ['n', 'batch_and_heads', SIZE],
        there: [1, 2, 0, 3],
        back: [2, 0, 1, 3],
        join: 'join_batch',
        adapters: 3,
      },
      '(BH)ND': {
        dims: ['batch_and_heads', 'n', SIZE],
        there: [0, 1, 2, 3],
        back: [0, 1, 2, 3],
        join: 'join_heads',
        adapters: 4,
      },
    };

    /** Nodes from `from` in a layout to `to` in [B,H,N,D]. */
    function unpack(from: string, to: string, { there, split }: Form): NodeSpec[] {
      if (split === undefined) return [transpose(from, to, there)];
      return [node('Reshape', [from, split], [`${to}_split`]), transpose(`${to}_split`, to, there)];
    }

    function pack(from: string, to: string, { back, join }: Form): NodeSpec[] {
      if (join === undefined) return [transpose(from, to, back)];
      return [transpose(from, `${from}_t`, back), node('Reshape', [`${from}_t`, join], [to])];
    }

    const shape = (name: string, ...sizes: number[]): TensorSpec => ({
      name,
      dataType: DataType.INT64,
      dims: [sizes.length],
      data: new Uint8Array(BigInt64Array.from(sizes, BigInt).buffer),
    });

    for (const layout of Object.keys(forms) as Layout[]) {
      // Operands with heads next to the batch do not occur: their number of heads could not be told.
      const given: Layout = LAYOUT_AXES[layout].headsWithBatch ? 'BHND' : layout;
      it(`${given} in, ${layout} out`, async () => {
        const roles = ['query', 'key', 'value'] as const;
        const original = model({
          name: 'g',
          inputs: roles.map(role => floatValue(role, ...forms[given].dims)),
          outputs: [floatValue('output', ...forms[layout].dims)],
          initializers: [
            ...CONSTANTS,
            shape('split', 0, 0, HEADS, SIZE),
            shape('split_channels', 0, HEADS, SIZE, -1),
            shape('join_channels', 0, HEADS * SIZE, -1),
            shape('join_heads', 2 * HEADS, -1, SIZE),
            shape('join', 0, 0, HEADS * SIZE),
            shape('join_batch', 0, -1, SIZE),
          ],
          nodes: [
            ...roles.flatMap(role => unpack(role, `${role}_headed`, forms[given])),
            ...attention('', 'query_headed', 'key_headed', 'value_headed', 'headed'),
            ...pack('headed', 'output', forms[layout]),
          ],
        });
        const layouts = { query: given, key: given, value: given, output: layout };
        const { bytes, model: rewritten } = rewrite(original, ({ main }) => [
          replacement(site(main, ['query', 'key', 'value', 'output'], { layouts })),
        ]);
        await assertSameOutputs(original, bytes);
        assert.equal(rewritten.graph.nodes.length, 1 + forms[layout].adapters);
      });
    }
  });

  it('connects the operands of a fusion by name, through their moves', async () => {
    const packed = ['q', 'k', 'v'].map(name => floatValue(name, 'b', 'n', HEADS * SIZE));
    const shape = int64s('heads', [4], [0, 0, HEADS, SIZE]);
    const back = int64s('joined', [3], [0, 0, HEADS * SIZE]);
    const perm = { perm: { type: 'ints', value: [0, 2, 1, 3] } } as const;
    const original = model({
      name: 'g',
      inputs: packed,
      outputs: [floatValue('y', 'b', 'n', HEADS * SIZE)],
      initializers: [...CONSTANTS, shape, back],
      nodes: [
        ...['q', 'k', 'v'].flatMap(name => [
          node('Reshape', [name, 'heads'], [`${name}_apart`]),
          node('Transpose', [`${name}_apart`], [`${name}_heads`], perm),
        ]),
        ...attention('', 'q_heads', 'k_heads', 'v_heads', 'sum'),
        node('Transpose', ['sum'], ['sum_rows'], perm),
        node('Reshape', ['sum_rows', 'joined'], ['y']),
      ],
    });
    const apart = [{ reshape: [0, 0, HEADS, -1] }, { transpose: [0, 2, 1, 3] }];
    const joined = [{ transpose: [0, 2, 1, 3] }, { reshape: [0, 0, -1] }];
    const operator = { ...EXACT_ATTENTION, fidelity: { 'multi-level': 'exact' } } as const;
    const { bytes, model: rewritten } = rewrite(original, ({ main }) => {
      const fusion: FusionSite = {
        ...site(main, ['q', 'k', 'v', 'y']),
        computation: 'multi-level',
        operands: Object.fromEntries(
          [['query', 'q'] as const, ['key', 'k'] as const, ['value', 'v'] as const].map(([name, value]) => [
            name,
            { value, dataType: DataType.FLOAT, moves: apart },
          ]),
        ),
        output: { value: 'y', dataType: DataType.FLOAT, moves: joined, axes: { batch: 0, sequence: 1 } },
        furtherOutputs: {},
        parameters: { scale: SCALE, label: '', per_head: [] },
      };
      return [{ site: fusion, operator, attributes: fusion.parameters }];
    });
    await assertSameOutputs(original, bytes);
    const computing = types(rewritten.graph.nodes).filter(type => type !== 'Constant');
    assert.deepEqual(computing, [
      ...['Reshape', 'Transpose', 'Reshape', 'Transpose', 'Reshape', 'Transpose'],
      'ExactAttention',
      ...['Transpose', 'Reshape'],
    ]);
  });

  it('casts operands to the type of the output', async () => {
    const original = model({
      name: 'g',
      inputs: [{ name: 'q', dataType: DataType.DOUBLE, dims: ['b', HEADS, 'n', SIZE] }, ...qkv().slice(1)],
      outputs: [HEADED],
      initializers: CONSTANTS,
      nodes: [
        node('Cast', ['q'], ['narrow'], { to: { type: 'int', value: DataType.FLOAT } }),
        ...attention('', 'narrow', 'k', 'v', 'y'),
      ],
    });
    const { bytes, model: rewritten } = rewrite(original, ({ main }) => {
      const found = site(main, ['q', 'k', 'v', 'y']);
      return [replacement({ ...found, query: { ...found.query, dataType: DataType.DOUBLE } })];
    });
    const values = Float64Array.from(new SeededRandom(4).normals(BATCH * HEADS * LENGTH * SIZE));
    await assertSameOutputs(original, bytes, {
      q: new Tensor('float64', values, [BATCH, HEADS, LENGTH, SIZE]),
    });
    assert.deepEqual(types(rewritten.graph.nodes), ['Cast', 'ExactAttention']);
  });

  describe('key masks', () => {
    const hidden = [0, 0, 1, 1, 0, 1, 0, 0, 0, 1];
    const shown = hidden.map(bit => 1 - bit);
    const cases = {
      'int64, nonzero for visible': [
        DataType.INT64,
        'nonzero',
        new Tensor('int64', shown.map(BigInt), [BATCH, LENGTH]),
        ['Cast'],
      ],
      'bool, true for visible': [DataType.BOOL, 'nonzero', new Tensor('bool', shown, [BATCH, LENGTH]), []],
      'float32, zero for visible': [
        DataType.FLOAT,
        'zero',
        new Tensor('float32', hidden, [BATCH, LENGTH]),
        ['Cast', 'Not'],
      ],
      'bool, false for visible': [
        DataType.BOOL,
        'zero',
        new Tensor('bool', hidden, [BATCH, LENGTH]),
        ['Not'],
      ],
    } as const;
    for (const [what, [dataType, visible, mask, adapters]] of Object.entries(cases)) {
      it(`${what}, shared by two sites`, async () => {
        const original = model({
          name: 'g',
          inputs: [...qkv(), { name: 'mask', dataType, dims: ['b', 'n'] }],
          outputs: [HEADED],
          initializers: [
            ...CONSTANTS,
            {
              name: 'axes',
              dataType: DataType.INT64,
              dims: [2],
              data: new Uint8Array(BigInt64Array.of(1n, 2n).buffer),
            },
          ],
          nodes: [
            node('Cast', ['mask'], ['mask_bool'], { to: { type: 'int', value: DataType.BOOL } }),
            node(visible === 'nonzero' ? 'Identity' : 'Not', ['mask_bool'], ['shown']),
            node('Unsqueeze', ['shown', 'axes'], ['mask4d']),
            ...attention('1', 'q', 'k', 'v', 'first', 'mask4d'),
            ...attention('2', 'first', 'k', 'first', 'y', 'mask4d'),
          ],
        });
        const keyMask = { value: 'mask', dataType, visible } as const;
        const { bytes, model: rewritten } = rewrite(original, ({ main }) => [
          replacement(site(main, ['q', 'k', 'v', 'first'], { keyMask })),
          replacement(site(main, ['first', 'k', 'first', 'y'], { keyMask })),
        ]);
        await assertSameOutputs(original, bytes, { mask });
        assert.deepEqual(types(rewritten.graph.nodes), [...adapters, 'ExactAttention', 'ExactAttention']);
      });
    }

    it('are not dropped for an operator that takes none', () => {
      const keyMask = { value: 'q', dataType: DataType.FLOAT, visible: 'nonzero' } as const;
      const operator = { ...EXACT_ATTENTION, inputs: EXACT_ATTENTION.inputs.slice(0, 3) };
      assert.throws(
        () =>
          rewrite(plainModel(), ({ main }) => [
            { ...replacement(site(main, ['q', 'k', 'v', 'y'], { keyMask })), operator },
          ]),
        /has no input for the key_mask/,
      );
    });
  });

  describe('function bodies', () => {
    it('are shared by sites with equal attributes', async () => {
      const { bytes, model: rewritten } = rewrite(twoLayers(), bothSites());
      await assertSameOutputs(twoLayers(), bytes);
      assert.deepEqual(types(rewritten.graph.nodes), ['ExactAttention', 'ExactAttention']);
      assert.equal(rewritten.functions.length, 1);
      assert.equal(rewritten.irVersion, 8);
    });

    it('get overloads, and IR version 10, where attributes differ', async () => {
      const { bytes, model: rewritten } = rewrite(twoLayers(), bothSites({ scale: SCALE + 1e-7 }));
      await assertSameOutputs(twoLayers(), bytes);
      assert.equal(rewritten.irVersion, 10);
      const overloads = rewritten.functions.map(({ overload }) => overload);
      assert.deepEqual(
        rewritten.graph.nodes.map(({ overload }) => overload),
        overloads,
      );
      assert.equal(new Set(overloads).size, 2);
      for (const overload of overloads) assert.match(overload, /^[0-9a-f]{16}$/);
    });

    it('of an earlier rewrite are used again, or joined by overloads', async () => {
      const first = rewrite(twoLayers(), graph => bothSites()(graph).slice(1));
      const again = rewrite(first.bytes, graph => bothSites()(graph).slice(0, 1));
      await assertSameOutputs(twoLayers(), again.bytes);
      assert.deepEqual(
        again.model.functions.map(({ overload }) => overload),
        [''],
      );
      assert.equal(again.model.irVersion, 8);

      const other = rewrite(first.bytes, graph => bothSites({ scale: SCALE + 1e-7 })(graph).slice(0, 1));
      await assertSameOutputs(twoLayers(), other.bytes);
      assert.deepEqual(
        other.model.functions.map(({ overload }) => overload === ''),
        [true, false],
      );
      assert.equal(other.model.irVersion, 10);
      assert.deepEqual(
        [...other.model.opsetImports],
        [
          ['', 17],
          [DOMAIN, 1],
        ],
      );
    });

    it('are made for the operator set of the model, and refused where it is too old', () => {
      const { model: rewritten } = rewrite(plainModel({ opsetImports: { '': 15 } }), plainSite);
      assert.equal(rewritten.functions[0]!.opsetImports.get(''), 15);
      assert.throws(() => rewrite(plainModel({ opsetImports: { '': 12 } }), plainSite), InputError);
    });

    it('are refused where the model uses another version of the domain', () => {
      const bytes = plainModel({ opsetImports: { '': 17, [DOMAIN]: 2 } });
      assert.throws(() => rewrite(bytes, plainSite), InputError);
    });
  });

  describe('what stays', () => {
    it('shared nodes, initializers, and nodes without use before', async () => {
      const original = model({
        name: 'g',
        inputs: qkv(),
        outputs: [HEADED, floatValue('other'), floatValue('kt')],
        initializers: CONSTANTS,
        nodes: [
          node('Relu', ['q'], ['unused']),
          ...attention('', 'q', 'k', 'v', 'y'),
          node('Exp', ['scale'], ['other']),
        ],
      });
      const { bytes, model: rewritten } = rewrite(original, ({ main }) => [
        replacement(site(main, ['q', 'k', 'v', 'y'])),
      ]);
      await assertSameOutputs(original, bytes);
      assert.deepEqual(types(rewritten.graph.nodes), ['Relu', 'Transpose', 'ExactAttention', 'Exp']);
      assert.deepEqual(
        rewritten.graph.initializers.map(({ name }) => name),
        ['scale', 'lowest'],
      );
    });

    it('initializers that callers may override', async () => {
      const scale = floatValue('scale');
      const original = model({
        name: 'g',
        inputs: [...qkv(), { ...scale, dims: [] }],
        outputs: [HEADED],
        initializers: CONSTANTS.slice(0, 1),
        nodes: attention('', 'q', 'k', 'v', 'y'),
      });
      const { model: rewritten } = rewrite(original, plainSite);
      assert.deepEqual(
        rewritten.graph.initializers.map(({ name }) => name),
        ['scale'],
      );
      assert.deepEqual(
        rewritten.graph.inputs.map(({ name }) => name),
        ['q', 'k', 'v', 'scale'],
      );
    });

    it('not the listing of initializers as inputs that IR version 3 demanded', async () => {
      const original = model(
        {
          name: 'g',
          inputs: [...qkv(), floatValue('scale'), floatValue('bias')].map(value => ({ dims: [], ...value })),
          outputs: [HEADED],
          initializers: [...CONSTANTS.slice(0, 1), floats('bias', [], [0.25])],
          nodes: [node('Add', ['q', 'bias'], ['biased']), ...attention('', 'biased', 'k', 'v', 'y')],
        },
        { irVersion: 3, opsetImports: { '': 13 } },
      );
      const { bytes, model: rewritten } = rewrite(original, ({ main }) => [
        replacement(site(main, ['biased', 'k', 'v', 'y'])),
      ]);
      await assertSameOutputs(original, bytes);
      const inputs = rewritten.graph.inputs.map(({ name }) => name);
      assert.deepEqual([rewritten.irVersion, inputs], [8, ['q', 'k', 'v']]);
      assert.deepEqual(
        rewritten.graph.initializers.map(({ name }) => name),
        ['bias'],
      );
    });
  });

  it('keeps new names apart from all names of the model', async () => {
    const id = 'layer.0';
    const layouts = { query: 'BNHD', output: 'BNHD' } as const;
    const taken = [`${id}/ExactAttention`, `${id}/ExactAttention/query`, `${id}/ExactAttention/output`];
    const original = model({
      name: 'g',
      inputs: [floatValue('q', 'b', 'n', HEADS, SIZE), ...qkv().slice(1)],
      outputs: [floatValue('y', 'b', 'n', HEADS, SIZE), ...taken.map(name => floatValue(name))],
      initializers: CONSTANTS,
      nodes: [
        transpose('q', 'q_headed', [0, 2, 1, 3]),
        ...attention('', 'q_headed', 'k', 'v', 'headed'),
        transpose('headed', 'y', [0, 2, 1, 3]),
        ...taken.map(name => ({ ...node('Exp', ['scale'], [name]), name })),
      ],
    });
    const { bytes } = rewrite(original, ({ main }) => [
      replacement(site(main, ['q', 'k', 'v', 'y'], { id, layouts })),
    ]);
    await assertSameOutputs(original, bytes);
  });

  it('replaces sites in subgraphs', async () => {
    const branch = (name: string, nodes: NodeSpec[]): GraphSpec => ({
      name,
      inputs: [],
      outputs: [floatValue(`${name}_y`)],
      nodes,
    });
    const original = model({
      name: 'g',
      inputs: [...qkv(), boolValue('flip')],
      outputs: [HEADED],
      initializers: CONSTANTS,
      nodes: [
        node('If', ['flip'], ['y'], {
          then_branch: { type: 'graph', value: branch('then', attention('', 'q', 'k', 'v', 'then_y')) },
          else_branch: { type: 'graph', value: branch('else', [node('Exp', ['q'], ['else_y'])]) },
        }),
      ],
    });
    const { bytes, model: rewritten } = rewrite(original, ({ main }) => {
      const inner = main.nodes[0]!.subgraphs.get('then_branch')!;
      return [replacement(site(inner, ['q', 'k', 'v', 'then_y']))];
    });
    for (const flip of [true, false])
      await assertSameOutputs(original, bytes, { flip: new Tensor('bool', [flip], []) });
    const inner = rewritten.graph.nodes[0]!.attributes.get('then_branch');
    assert.ok(inner?.type === 'graph');
    assert.deepEqual(types(inner.value.nodes), ['ExactAttention']);
    assert.deepEqual(
      rewritten.graph.initializers.map(({ name }) => name),
      ['lowest'],
    );
  });

  it('replaces sites in functions, importing the domain there too', async () => {
    const scale = node('Constant', [], ['scale'], {
      value: { type: 'tensor', value: floats('', [], [SCALE]) },
    });
    const original = model(
      {
        name: 'g',
        inputs: qkv(),
        outputs: [HEADED],
        nodes: [{ ...node('Layer', ['q', 'k', 'v'], ['y']), domain: 'test' }],
      },
      {
        opsetImports: { '': 17, test: 1 },
        functions: [
          {
            domain: 'test',
            name: 'Layer',
            inputs: ['a', 'b', 'c'],
            outputs: ['d'],
            opsetImports: { '': 17 },
            nodes: [scale, ...attention('', 'a', 'b', 'c', 'd')],
          },
        ],
      },
    );
    const { bytes, model: rewritten } = rewrite(original, ({ functions }) => [
      replacement(site(functions.get('test::Layer')!, ['a', 'b', 'c', 'd'])),
    ]);
    await assertSameOutputs(original, bytes);
    assert.deepEqual(types(rewritten.functions[0]!.nodes), ['ExactAttention']);
    assert.deepEqual(
      [...rewritten.functions[0]!.opsetImports],
      [
        ['', 17],
        [DOMAIN, 1],
      ],
    );
  });

  it('refuses to remove a node that computes something else in use', () => {
    const original = model(
      {
        name: 'g',
        inputs: qkv(),
        outputs: [HEADED, floatValue('present')],
        nodes: [{ ...node('Fused', ['q', 'k', 'v'], ['y', 'present']), domain: 'test' }],
      },
      { opsetImports: { '': 17, test: 1 } },
    );
    assert.throws(() => rewrite(original, plainSite), /computes more than the output of attention/);
  });
});
