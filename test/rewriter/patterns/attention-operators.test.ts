import assert from 'node:assert/strict';
import { DataType } from '../../../rewriter/onnx/spec.js';
import type { AttentionSite } from '../../../rewriter/site.js';
import { Net } from '../net.js';
import { HEADS, inspectNet, SIZE, WIDTH } from './attention-net.js';

type Attributes = Parameters<Net['op']>[2];

const OPSETS = { opsetImports: { '': 25, 'com.microsoft': 1 }, irVersion: 11 };
const SCALE = 1 / Math.sqrt(SIZE);

/** A graph of one operator; `more` adds inputs behind query, key and value and returns their names. */
function oneOperator(
  opType: string,
  dims: { query: (string | number)[]; key: (string | number)[]; value?: (string | number)[] },
  attributes: Attributes = {},
  more: (net: Net) => string[] = () => [],
  outputs: readonly string[] = ['y'],
): AttentionSite {
  const net = new Net();
  net.input('query', dims.query);
  net.input('key', dims.key);
  net.input('value', dims.value ?? dims.key);
  net.op(opType, ['query', 'key', 'value', ...more(net)], attributes, outputs);
  for (const name of outputs) if (name !== '') net.output(name);
  const { sites, nearMisses } = inspectNet(net, OPSETS);
  assert.equal(sites.length, 1, nearMisses.map(({ reason }) => reason).join('; '));
  return sites[0]!;
}

const headed = (heads: number, length: string) => ['batch', heads, length, SIZE];
const packed = (heads: number, length: string) => ['batch', length, heads * SIZE];
const SELF = { query: headed(HEADS, 'n'), key: headed(HEADS, 'n') };
const PACKED = { query: packed(HEADS, 'n'), key: packed(HEADS, 'n') };

describe('ai.onnx Attention', () => {
  const attention = (
    dims: Parameters<typeof oneOperator>[1] = SELF,
    attributes: Attributes = {},
    more?: (net: Net) => string[],
    outputs?: readonly string[],
  ) => oneOperator('Attention', dims, attributes, more, outputs);

  it('with heads apart', () => {
    const site = attention();
    assert.deepEqual(
      [
        site.pattern,
        site.query.layout,
        site.queryHeads,
        site.kvHeads,
        site.headDim,
        site.mask,
        site.replaceable,
      ],
      ['onnx-attention', 'BHND', HEADS, HEADS, SIZE, 'none', true],
    );
    assert.deepEqual([site.scale, site.operatorScale], [SCALE, SCALE]);
  });

  it('with heads packed, fewer of them for keys', () => {
    const dims = { query: packed(HEADS, 'n'), key: packed(2, 'n') };
    const site = attention(dims, { q_num_heads: HEADS, kv_num_heads: 2, scale: 0.5 });
    assert.deepEqual(
      [site.query.layout, site.output.layout, site.queryHeads, site.kvHeads, site.scale, site.replaceable],
      ['BN(HD)', 'BN(HD)', HEADS, 2, 0.5, true],
    );
  });

  it('with fewer key heads, and with keys that were repeated before', () => {
    const grouped = attention({ query: headed(HEADS, 'n'), key: headed(2, 'n') });
    assert.equal(grouped.kvHeads, 2);

    const net = new Net();
    net.input('query', headed(HEADS, 'n'));
    net.input('key', headed(2, 'n'));
    const repeat = (value: string) => {
      const wide = net.op('Expand', [net.op('Unsqueeze', [value, net.ints(2)]), net.ints(1, 1, 2, 1, 1)]);
      return net.op('Reshape', [wide, net.ints(0, HEADS, -1, SIZE)]);
    };
    net.op('Attention', ['query', repeat('key'), repeat('key')], { is_causal: 1 }, ['y']);
    net.output('y');
    const [site] = inspectNet(net, OPSETS).sites;
    assert.deepEqual([site!.kvHeads, site!.key.value, site!.causal], [2, 'key', true]);
  });

  it('is causal from the first key on, or after the cache', () => {
    const causal = { is_causal: 1 };
    const self = attention(SELF, causal);
    assert.deepEqual([self.mask, self.causal, self.alignment], ['causal', true, 'equal']);
    const cross = attention({ query: headed(HEADS, 'n'), key: headed(HEADS, 's') }, causal);
    assert.deepEqual([cross.mask, cross.kind, cross.alignment], ['causal', 'cross', 'upper-left']);
    const past = (net: Net) => [
      '',
      net.input('past_key', headed(HEADS, 'p')),
      net.input('past_value', headed(HEADS, 'p')),
    ];
    const cached = attention(SELF, causal, past, ['y', 'present_key', 'present_value']);
    assert.deepEqual([cached.kind, cached.past, cached.alignment], ['cached', true, 'bottom-right']);
    assert.equal(cached.replaceable, true);
    assert.deepEqual(cached.cache, {
      past: { key: 'past_key', value: 'past_value' },
      present: { key: 'present_key', value: 'present_value' },
      stacked: false,
      lengths: null,
    });
    const acausal = attention(SELF, {}, past, ['y', 'present_key', 'present_value']);
    assert.match(acausal.reason!, /cache.*not causal/);
  });

  it('with masks of each sort', () => {
    const padding = attention(SELF, { is_causal: 1 }, net => [
      net.op('Unsqueeze', [net.input('mask', ['batch', 'n'], DataType.BOOL), net.ints(1, 2)]),
    ]);
    assert.deepEqual([padding.mask, padding.emptyRow], ['causal+padding', 'zeros']);
    assert.deepEqual(padding.keyMask, { value: 'mask', dataType: DataType.BOOL, visible: 'nonzero' });

    const pairs = attention(SELF, {}, net => [net.input('mask', ['batch', 1, 'n', 'n'], DataType.BOOL)]);
    assert.deepEqual([pairs.mask, pairs.replaceable], ['other', false]);

    const bias = attention(SELF, {}, net => [net.input('bias', ['batch', 1, 'n', 'n'])]);
    assert.deepEqual([bias.mask, bias.replaceable], ['additive-bias', false]);

    const lengths = attention(SELF, {}, net => ['', '', '', net.input('lengths', ['batch'], DataType.INT64)]);
    assert.deepEqual(
      [lengths.mask, lengths.keyMask],
      ['key-padding', { value: 'lengths', dataType: DataType.INT64, visible: 'count' }],
    );
    const causal = attention(SELF, { is_causal: 1 }, net => [
      ...['', '', ''],
      net.input('lengths', ['batch'], DataType.INT64),
    ]);
    assert.match(causal.reason!, /depends on data/, 'the diagonal of each row starts elsewhere');
  });

  it('is kept with a cap or an output of its scores, and tells windows', () => {
    const capped = attention(SELF, { softcap: 30.5 });
    assert.deepEqual([capped.mask, capped.scale, capped.replaceable], ['other', SCALE, false]);
    const window = attention(SELF, { is_causal: 1, left_window_size: 100 });
    assert.deepEqual(
      [window.mask, window.causal, window.window],
      ['sliding-window', true, { left: 100, right: 0 }],
    );
    const both = attention(SELF, { left_window_size: 3, right_window_size: 3 });
    assert.deepEqual([both.mask, both.causal, both.window], ['sliding-window', false, { left: 3, right: 3 }]);
    const scores = attention(SELF, {}, undefined, ['y', '', '', 'scores']);
    assert.match(scores.reason!, /attention scores are an output/);
  });

  it('gives keys and values without a cache, just as it takes them', () => {
    const net = new Net();
    net.input('query', headed(HEADS, 'n'));
    const key = net.op('Mul', [net.input('key', headed(HEADS, 'n')), net.scalar(2)]);
    const outputs = ['y', 'present_key', 'present_value'];
    net.op('Attention', ['query', key, 'key'], {}, outputs);
    for (const name of outputs) net.output(name);
    const [site] = inspectNet(net, OPSETS).sites;
    assert.deepEqual(
      [site!.key.value, site!.scale, site!.past, site!.replaceable],
      [key, SCALE, false, true],
    );
  });
});

describe('com.microsoft MultiHeadAttention', () => {
  const attention = (
    dims: Parameters<typeof oneOperator>[1] = PACKED,
    attributes: Attributes = {},
    more?: (net: Net) => string[],
  ) => oneOperator('com.microsoft::MultiHeadAttention', dims, { num_heads: HEADS, ...attributes }, more);

  it('with packed heads, scaled by the root of their size or as it says', () => {
    const site = attention();
    assert.deepEqual(
      [site.pattern, site.query.layout, site.queryHeads, site.headDim, site.scale, site.replaceable],
      ['ms-multi-head-attention', 'BN(HD)', HEADS, SIZE, SCALE, true],
    );
    assert.equal(attention(PACKED, { scale: 0.75 }).scale, 0.75);
  });

  it('with keys that come with their heads apart', () => {
    const site = attention({ query: packed(HEADS, 'n'), key: headed(HEADS, 's') });
    assert.deepEqual([site.key.layout, site.kind], ['BHND', 'cross']);
  });

  it('with masks of each sort', () => {
    assert.equal(attention(PACKED, { unidirectional: 1 }).mask, 'causal');
    const mask = attention(PACKED, { unidirectional: 1 }, net => [
      '',
      net.input('mask', ['batch', 'n'], DataType.INT32),
    ]);
    assert.deepEqual([mask.mask, mask.keyMask!.value, mask.emptyRow], ['causal+padding', 'mask', 'unknown']);
    const lengths = attention(PACKED, {}, net => ['', net.input('lengths', ['batch'], DataType.INT32)]);
    assert.deepEqual([lengths.mask, lengths.keyMask!.visible], ['key-padding', 'count']);
    const bias = attention(PACKED, {}, net => ['', '', net.input('bias', [1, HEADS, 'n', 'n'])]);
    assert.equal(bias.mask, 'additive-bias');
  });

  it('with the biases of the projections: they are added outside', () => {
    const { query, key, value, replaceable } = attention(PACKED, {}, net => [
      net.tensor([3 * WIDTH], Array(3 * WIDTH).fill(1)),
    ]);
    assert.equal(replaceable, true);
    const columns = [query, key, value].map(({ projection }) => projection!.columns);
    assert.deepEqual(columns, [
      [0, WIDTH],
      [WIDTH, 2 * WIDTH],
      [2 * WIDTH, 3 * WIDTH],
    ]);
    assert.equal(query.projection!.weights, null);
  });

  it('is kept with a buffer of fixed length or the keys of beams', () => {
    const past = (net: Net) => [
      ...['', '', ''],
      net.input('past_key', headed(HEADS, 'p')),
      net.input('past_value', headed(HEADS, 'p')),
    ];
    const length = (net: Net) => net.input('past_sequence_length', [1], DataType.INT32);
    const causal = { unidirectional: 1 };
    assert.equal(attention(PACKED, causal, past).replaceable, true);
    const shared = attention(PACKED, causal, net => [...past(net), length(net)]);
    assert.match(shared.reason!, /buffer of fixed length/);
    const beams = attention(PACKED, causal, net => [
      ...past(net),
      '',
      net.input('cache_indirection', ['batch', 'beams', 'p'], DataType.INT32),
    ]);
    assert.match(beams.reason!, /beams/);
  });
});

describe('com.microsoft Attention', () => {
  const attention = (attributes: Attributes = {}, more: (net: Net) => string[] = () => []): AttentionSite => {
    const net = new Net();
    net.input('x', ['batch', 'n', 6]);
    const weights = net.tensor([6, 3 * WIDTH], Array(18 * WIDTH).fill(0.1));
    const bias = net.tensor([3 * WIDTH], Array(3 * WIDTH).fill(0.2));
    net.op(
      'com.microsoft::Attention',
      ['x', weights, bias, ...more(net)],
      { num_heads: HEADS, ...attributes },
      ['y'],
    );
    net.output('y');
    const { sites } = inspectNet(net, OPSETS);
    assert.equal(sites.length, 1);
    return sites[0]!;
  };

  it('projects inside: the site says how', () => {
    const site = attention({ unidirectional: 1 });
    assert.deepEqual(
      [site.pattern, site.queryHeads, site.headDim, site.scale, site.mask, site.kind, site.replaceable],
      ['ms-attention', HEADS, SIZE, SCALE, 'causal', 'self', true],
    );
    assert.equal(site.key.value, 'x');
    assert.deepEqual(site.key.projection!.columns, [WIDTH, 2 * WIDTH]);
    assert.ok(site.key.projection!.weights !== null && site.key.projection!.bias !== null);
  });

  it('with masks of two axes, lengths, and masks of pairs, which are no key mask', () => {
    const mask = (...dims: (string | number)[]) =>
      attention({}, net => [net.input('mask', dims, DataType.INT32)]);
    assert.equal(mask('batch', 'n').keyMask!.value, 'mask');
    assert.equal(mask('batch').keyMask!.visible, 'count');
    assert.equal(mask('batch', 'n', 'n').mask, 'other');
  });

  it('with the lengths that an operator for embeddings counts', () => {
    const net = new Net();
    const ids = ['ids', 'segments', 'mask'].map(name => net.input(name, ['batch', 'n'], DataType.INT32));
    const table = (rows: number) => net.tensor([rows, WIDTH], Array(rows * WIDTH).fill(0.1));
    const norm = ['scale', 'shift'].map(() => net.tensor([WIDTH], Array(WIDTH).fill(0.1)));
    net.op(
      'com.microsoft::EmbedLayerNormalization',
      [ids[0]!, ids[1]!, table(9), table(64), table(2), ...norm, ids[2]!],
      {},
      ['x', 'lengths'],
    );
    const weights = net.tensor([WIDTH, 3 * WIDTH], Array(3 * WIDTH * WIDTH).fill(0.1));
    net.op('com.microsoft::Attention', ['x', weights, '', 'lengths'], { num_heads: HEADS }, ['y']);
    net.output('y');
    const [site] = inspectNet(net, OPSETS).sites;
    assert.deepEqual(site!.keyMask, { value: 'lengths', dataType: DataType.INT32, visible: 'count' });
    assert.equal(site!.replaceable, true);
  });

  it('is kept with rotary positions inside', () => {
    assert.match(attention({ do_rotary: 1 }).reason!, /rotary/);
  });
});

describe('com.microsoft GroupQueryAttention', () => {
  const attention = (
    attributes: Attributes = {},
    more: (net: Net) => string[] = () => [],
    outputs: readonly string[] = ['y', 'present_key', 'present_value'],
  ): AttentionSite =>
    oneOperator(
      'com.microsoft::GroupQueryAttention',
      { query: packed(HEADS, 'n'), key: packed(2, 'n') },
      { num_heads: HEADS, kv_num_heads: 2, ...attributes },
      net => [
        '',
        '',
        net.input('seqlens_k', ['batch'], DataType.INT32),
        net.input('total_sequence_length', [], DataType.INT32),
        ...more(net),
      ],
      outputs,
    );
  const tables = (net: Net) => ['cosines', 'sines'].map(name => net.input(name, [64, SIZE / 4]));
  const scales = (net: Net) => net.tensor([1], [0.1]);

  it('says what it does besides attention', () => {
    const site = attention({ do_rotary: 1, rotary_interleaved: 1 }, tables);
    assert.deepEqual(
      [site.queryHeads, site.kvHeads, site.headDim, site.causal, site.mask, site.replaceable],
      [HEADS, 2, SIZE, true, 'causal+padding', true],
    );
    assert.deepEqual(site.keyMask, { value: 'seqlens_k', dataType: DataType.INT32, visible: 'last' });
    assert.deepEqual(site.rotary, {
      cosines: 'cosines',
      sines: 'sines',
      channels: SIZE / 2,
      interleaved: true,
      positions: null,
    });
    assert.deepEqual(site.cache!.lengths, { last: 'seqlens_k', total: 'total_sequence_length' });
  });

  it('is kept where attention is not all that differs', () => {
    const reasonOf = (attributes: Attributes, more?: (net: Net) => string[], outputs?: readonly string[]) =>
      attention(attributes, more, outputs).reason!;
    const behind = (count: number) => Array<string>(count).fill('');
    assert.match(reasonOf({ softcap: 30.5 }), /capped/);
    assert.match(
      reasonOf({}, net => [...behind(5), scales(net), scales(net)]),
      /cache is quantized/,
    );
    const norm = (net: Net) => net.tensor([SIZE], Array(SIZE).fill(1));
    assert.match(
      reasonOf({}, net => [...behind(7), norm(net), norm(net)]),
      /normalizes/,
    );
    assert.match(reasonOf({}, undefined, ['y', '', '', 'scores']), /attention scores are an output/);
    const bias = (net: Net) => [...behind(3), net.input('bias', [1, HEADS, 'n', 'n'])];
    assert.match(reasonOf({}, bias), /additive bias/);
  });

  it('tells the sinks of its heads, or the zero of a smooth softmax', () => {
    const sinks = (net: Net) => [...Array<string>(4).fill(''), net.input('sinks', [HEADS])];
    assert.equal(attention({}).sink, null);
    assert.deepEqual(attention({ smooth_softmax: 1 }).sink!.value, null);
    assert.deepEqual(attention({ smooth_softmax: 1 }, sinks).sink!.value, 'sinks');
  });

  it('counts the query’s own key into its window', () => {
    assert.equal(attention({ local_window_size: 4 }).mask, 'sliding-window');
  });
});

describe('other attention operators of com.microsoft', () => {
  it('are near misses with the reason', () => {
    const reasonOf = (opType: string) => {
      const net = new Net();
      net.op(`com.microsoft::${opType}`, [net.input('x', ['batch', 'n', WIDTH])], {}, ['y']);
      net.output('y');
      const { sites, nearMisses } = inspectNet(net, OPSETS);
      assert.deepEqual([sites.length, nearMisses.length], [0, 1]);
      return nearMisses[0]!.reason;
    };
    assert.match(reasonOf('QAttention'), /before it is quantized/);
    assert.match(reasonOf('DecoderMaskedMultiHeadAttention'), /one query a step/);
    assert.match(reasonOf('SparseAttention'), /blocks already/);
  });
});
