import assert from 'node:assert/strict';
import { DataType } from '../../../rewriter/onnx/spec.js';
import type { AttentionSite } from '../../../rewriter/site.js';
import { Net } from '../net.js';
import { uint8s } from '../onnx/builders.js';
import {
  attentionNet,
  type Factor,
  HEADS,
  inspectNet,
  SIZE,
  type Variation,
  WIDTH,
} from './attention-net.js';

const SCALE = 1 / Math.sqrt(SIZE);

/** The only site of a variation. */
function siteOf(variation: Variation): AttentionSite {
  const { sites, nearMisses } = inspectNet(attentionNet(variation));
  assert.equal(sites.length, 1, nearMisses.map(({ reason }) => reason).join('; '));
  return sites[0]!;
}

function assertPlain(site: AttentionSite, expected: Partial<AttentionSite> = {}): void {
  const claims: Partial<AttentionSite> = {
    scope: 'layers.0.attn',
    pattern: 'softmax-attention',
    queryHeads: HEADS,
    kvHeads: HEADS,
    headDim: SIZE,
    valueDim: SIZE,
    scale: 1,
    operatorScale: 1,
    mask: 'none',
    causal: false,
    keyMask: null,
    kind: 'self',
    past: false,
    dtype: 'float32',
    replaceable: true,
    reason: null,
    ...expected,
  };
  const found = Object.fromEntries(Object.keys(claims).map(key => [key, site[key as keyof AttentionSite]]));
  assert.deepEqual(found, claims);
}

/** Puts what `make` writes to a name in place of a plain layer's own keys and values [B,H,N,SIZE]. */
function withKeys(net: Net, make: (own: string, name: 'keys' | 'values') => void): void {
  const nodeOf = (value: string) => net.nodes.find(({ outputs }) => outputs[0] === value)!;
  for (const [name, consumer, slot] of [
    ['keys', nodeOf(nodeOf('scores').inputs[1]!), 0],
    ['values', nodeOf('sum'), 1],
  ] as const) {
    make(consumer.inputs[slot]!, name);
    Object.assign(consumer, { inputs: consumer.inputs.map((input, i) => (i === slot ? name : input)) });
  }
}

/** Sites of attention over the pixels of a feature map, as autoencoders of images write it, with this weighted sum. */
function channelsFirst(
  sum: (net: Net, channels: string, weights: string) => string,
): readonly AttentionSite[] {
  const net = new Net();
  net.input('x', ['batch', WIDTH, 'height', 'width']);
  const flat = (seed: number) => {
    const weights = Array.from({ length: WIDTH * WIDTH }, (_, i) => Math.sin(seed + i));
    const projected = net.op('Conv', ['x', net.tensor([WIDTH, WIDTH, 1, 1], weights)]);
    return net.op('Reshape', [projected, net.ints(0, WIDTH, -1)]);
  };
  const query = net.op('Transpose', [flat(1)], { perm: [0, 2, 1] });
  const weights = net.op('Softmax', [net.op('MatMul', [query, flat(2)])], { axis: -1 });
  net.op('Reshape', [sum(net, flat(3), weights), net.op('Shape', ['x'])], {}, ['y']);
  net.output('y');
  return inspectNet(net).sites;
}

/** 1/sqrt(head size) from the shape of a value, as exporters write it without constant folding. */
const rootOfShape = (net: Net, value: string): string => {
  const size = net.op('Slice', [net.op('Shape', [value]), net.ints(-1), net.ints(2 ** 40)]);
  return net.op('Sqrt', [net.op('Cast', [size], { to: DataType.FLOAT })]);
};

describe('softmax attention', () => {
  describe('projections', () => {
    for (const packed of [undefined, 'split', 'gather', 'slice'] as const) {
      it(packed ?? 'separate', () => assertPlain(siteOf(packed === undefined ? {} : { packed })));
    }

    it('by letters, with weights for each head', () => {
      const net = new Net();
      net.input('x', ['batch', 'sequence', WIDTH]);
      const projected = (seed: number) => {
        const numbers = Array.from({ length: HEADS * WIDTH * SIZE }, (_, i) => Math.sin(seed + i));
        const weights = net.tensor([HEADS, WIDTH, SIZE], numbers);
        return net.op('Einsum', ['x', weights], { equation: 'bnc,hcd->bhnd' });
      };
      const scores = net.op('Einsum', [projected(1), projected(2)], { equation: 'bhid,bhjd->bhij' });
      const weights = net.op('Softmax', [scores], { axis: -1 });
      net.op('Einsum', [weights, projected(3)], { equation: 'bhij,bhjd->bhid' }, ['y']);
      net.output('y');
      const { sites, nearMisses } = inspectNet(net);
      assert.deepEqual(
        [sites.map(({ pattern, queryHeads }) => [pattern, queryHeads]), nearMisses],
        [[['softmax-attention', HEADS]], []],
      );
    });
  });

  describe('keys transposed', () => {
    it('by one permutation from [B,N,H,D]: the operand is taken before it', () => {
      const site = siteOf({ keyTranspose: 'fused' });
      assertPlain(site);
      assert.deepEqual([site.query.layout, site.key.layout, site.value.layout], ['BHND', 'BNHD', 'BHND']);
    });
    for (const keyTranspose of ['swap', 'detour'] as const) {
      it(keyTranspose === 'swap' ? 'by swapping the last axes' : 'through three axes', () => {
        const site = siteOf({ keyTranspose });
        assertPlain(site);
        assert.deepEqual([site.query.layout, site.key.layout, site.value.layout], ['BHND', 'BHND', 'BHND']);
      });
    }
    it('by a permutation that mixes batch and heads: the operand is taken after it', () => {
      const net = attentionNet({ keyTranspose: 'swap' });
      const scores = net.nodes.find(({ outputs }) => outputs[0] === 'scores')!;
      const turn = net.nodes.find(({ outputs }) => outputs[0] === scores.inputs[1])!;
      Object.assign(turn, { attributes: { perm: { type: 'ints', value: [1, 0, 3, 2] } } });
      const [site] = inspectNet(net).sites;
      assert.deepEqual([site!.key.value, site!.key.layout], [turn.outputs[0], 'BHDN']);
    });
    it('by the letters of Einsum', () => {
      const site = siteOf({ products: 'einsum' });
      assertPlain(site);
      assert.deepEqual([site.query.layout, site.key.layout, site.output.layout], ['BNHD', 'BNHD', 'BNHD']);
    });
  });

  describe('values that multiply transposed probabilities', () => {
    const perm = [0, 2, 1];
    const turns: Readonly<Record<string, (net: Net, channels: string, weights: string) => string>> = {
      'turned by a node': (net, channels, weights) =>
        net.op('MatMul', [channels, net.op('Transpose', [weights], { perm })]),
      'turned inside the product': (net, channels, weights) =>
        net.op('com.microsoft::FusedMatMul', [channels, weights], { transB: 1 }),
      'turned by letters': (net, channels, weights) =>
        net.op('Einsum', [channels, weights], { equation: 'bck,bqk->bcq' }),
    };
    for (const [name, sum] of Object.entries(turns)) {
      it(`with channels first, ${name}`, () => {
        const [site] = channelsFirst(sum);
        assertPlain(site!, { scope: null, queryHeads: 1, kvHeads: 1, headDim: WIDTH, valueDim: WIDTH });
        const { query, key, value, output } = site!;
        assert.deepEqual(
          [query, key, value, output].map(({ layout }) => layout),
          ['BN(HD)', 'B(HD)N', 'B(HD)N', 'B(HD)N'],
        );
      });
    }

    it('are none where the sum runs over queries', () => {
      assert.deepEqual(
        channelsFirst((net, channels, weights) => net.op('MatMul', [channels, weights])),
        [],
      );
    });
  });

  it('is not seen where values are weighted along the queries', () => {
    const net = attentionNet({ batched: true });
    const sum = net.nodes.find(({ outputs }) => outputs[0] === 'sum')!;
    Object.assign(sum, {
      opType: 'FusedMatMul',
      domain: 'com.microsoft',
      attributes: { transA: { type: 'int', value: 1 } },
    });
    const { sites, nearMisses } = inspectNet(net);
    assert.deepEqual(sites, []);
    assert.match(nearMisses[0]!.reason, /rearranged/);
  });

  it('takes heads next to the batch apart again', () => {
    const site = siteOf({ batched: true });
    assertPlain(site);
    assert.deepEqual([site.query.layout, site.output.layout], ['BHND', 'BHND']);
    assert.equal(site.output.value, 'sum_heads');
  });

  describe('scale', () => {
    const half = Math.sqrt(SCALE);
    const cases: Record<string, { factors: Factor[]; operator?: number }> = {
      'on the scores': { factors: [{ at: 'scores', op: 'Mul', value: SCALE }] },
      'dividing the scores': { factors: [{ at: 'scores', op: 'Div', value: 1 / SCALE }] },
      'on the query': { factors: [{ at: 'query', op: 'Mul', value: SCALE }] },
      'dividing the query': { factors: [{ at: 'query', op: 'Div', value: 1 / SCALE }] },
      'on the key': { factors: [{ at: 'key', op: 'Mul', value: SCALE }] },
      'its root on both sides': {
        factors: [
          { at: 'query', op: 'Mul', value: half },
          { at: 'key', op: 'Mul', value: half },
        ],
      },
      'a root taken from the shape': { factors: [{ at: 'scores', op: 'Div', value: rootOfShape }] },
      'roots taken from the shape on both sides': {
        factors: (['query', 'key'] as const).map(at => ({
          at,
          op: 'Div',
          value: (net: Net, query: string) => net.op('Sqrt', [rootOfShape(net, query)]),
        })),
      },
      'in the projection, before the heads': {
        factors: [{ at: 'projection', op: 'Mul', value: SCALE }],
        operator: 1,
      },
      'several, with ones among them': {
        factors: [
          { at: 'projection', op: 'Mul', value: 2 * SCALE },
          { at: 'query', op: 'Mul', value: 1 },
          { at: 'scores', op: 'Div', value: 4 },
          { at: 'scores', op: 'Mul', value: 2 },
        ],
        operator: 0.5,
      },
    };
    for (const [name, { factors, operator }] of Object.entries(cases)) {
      it(name, () => {
        assertPlain(siteOf({ factors }), { scale: SCALE, operatorScale: operator ?? SCALE });
      });
    }

    it('that is no constant is reported and not replaced', () => {
      const perHead: Factor['value'] = net => net.tensor([HEADS, 1, 1], [1, 2, 3, 4]);
      const site = siteOf({ factors: [{ at: 'scores', op: 'Mul', value: perHead }] });
      assert.deepEqual([site.scale, site.operatorScale, site.replaceable], [null, null, false]);
      assert.match(site.reason!, /scale/);
    });

    it('that is no number of the usual kind is kept as it is', () => {
      assertPlain(siteOf({ factors: [{ at: 'scores', op: 'Mul', value: 0.3 }] }), {
        scale: Math.fround(0.3),
        operatorScale: Math.fround(0.3),
      });
    });
  });

  describe('grouped queries', () => {
    it('1 key head that has no axis, by letters', () => {
      const net = new Net();
      net.input('x', ['batch', 'sequence', WIDTH]);
      const heads = net.op('Reshape', [net.linear('x', WIDTH, WIDTH), net.ints(0, 0, HEADS, SIZE)]);
      const query = net.op('Transpose', [heads], { perm: [0, 2, 1, 3] });
      const [key, value] = [net.linear('x', WIDTH, SIZE), net.linear('x', WIDTH, SIZE)];
      const scores = net.op('Einsum', [query, key], { equation: 'bhid,bjd->bhij' });
      const weights = net.op('Softmax', [scores], { axis: -1 });
      net.op('Einsum', [weights, value], { equation: 'bhij,bjd->bhid' }, ['y']);
      net.output('y');
      const [site] = inspectNet(net).sites;
      assert.deepEqual(
        [site?.queryHeads, site?.kvHeads, site?.headDim, site?.key.value, site?.replaceable],
        [HEADS, 1, SIZE, key, true],
      );
    });

    for (const kvHeads of [1, 2]) {
      it(`${kvHeads} key heads, found behind Expand`, () => {
        const site = siteOf({ kvHeads, repeat: 'expand' });
        assertPlain(site, { kvHeads });
      });
      it(`${kvHeads} key heads, found behind a transposition through three axes`, () => {
        assertPlain(siteOf({ kvHeads, repeat: 'expand', keyTranspose: 'detour' }), { kvHeads });
      });
    }

    it('repeated in another order are no groups: the repeated heads are the operands', () => {
      assertPlain(siteOf({ kvHeads: 2, repeat: 'tile' }), { kvHeads: HEADS });
    });
  });

  it('looks through the guard against NaN and through casts', () => {
    assertPlain(siteOf({ guarded: true }));
    const site = siteOf({ half: true, guarded: true });
    assertPlain(site, { dtype: 'float16' });
    assert.equal(site.query.dataType, DataType.FLOAT16);
  });

  it('gives the products themselves where heads never come apart from the batch', () => {
    const net = attentionNet({ batched: true });
    const back = net.nodes.find(({ outputs }) => outputs[0] === 'sum_heads')!;
    const apart = net.ints(-1, HEADS, 4, 2, SIZE);
    Object.assign(back, { inputs: ['sum', apart] });
    Object.assign(net.inputs[0]!, { dims: ['batch', 8, WIDTH] });
    const swap = net.nodes.find(({ inputs }) => inputs[0] === 'sum_heads')!;
    Object.assign(swap, { attributes: { perm: { type: 'ints', value: [0, 2, 3, 1, 4] } } });
    const join = net.nodes.find(({ inputs }) => inputs[0] === swap.outputs[0])!;
    Object.assign(join, { inputs: [swap.outputs[0], net.ints(0, 4, -1)] });
    const site = inspectNet(net).sites[0]!;
    assertPlain(site);
    assert.deepEqual([site.output.value, site.output.layout], ['sum', '(BH)ND']);
  });

  it('tells keys of other data from the queries’ own', () => {
    assertPlain(siteOf({ memory: true }), { kind: 'cross' });
  });

  it('tells a cache that holds keys and values in one input', () => {
    const net = attentionNet();
    net.input('past', [2, 'batch', HEADS, 'past', SIZE]);
    withKeys(net, (own, name) => {
      const part = net.op('Gather', ['past', net.int(name === 'keys' ? 0 : 1)], { axis: 0 });
      net.op('Concat', [part, own], { axis: 2 }, [name]);
    });
    const [site] = inspectNet(net).sites;
    assert.deepEqual([site!.kind, site!.past, site!.key.value], ['cached', true, 'keys']);
  });

  it('takes keys that were cached whole for those of other data', () => {
    const net = attentionNet();
    withKeys(net, (_, name) => {
      const cached = net.input(`encoder_${name}`, ['batch', HEADS, 'encoder_sequence', SIZE]);
      net.op('Concat', [cached], { axis: 2 }, [name]);
    });
    assertPlain(inspectNet(net).sites[0]!, { kind: 'cross' });
  });

  it('lists the nodes that serve nothing else', () => {
    const net = attentionNet();
    const { sites, graph } = inspectNet(net);
    const [site] = sites;
    const types = site!.nodes.map(({ type }) => type).sort();
    assert.deepEqual(types, ['MatMul', 'MatMul', 'Softmax', 'Transpose']);
    assert.ok(site!.nodes.every(node => node.graph === graph.main));
  });

  describe('is kept', () => {
    const keptReason = (build: (net: Net) => void, variation: Variation = {}): string => {
      const net = attentionNet(variation);
      build(net);
      const { sites } = inspectNet(net);
      assert.equal(sites.length, 1);
      assert.equal(sites[0]!.replaceable, false);
      return sites[0]!.reason!;
    };

    it('where the probabilities are an output', () => {
      assert.match(
        keptReason(net => net.output('weights')),
        /probabilities are an output/,
      );
    });
    it('where the probabilities are used by something else', () => {
      const used = (net: Net) => {
        net.op('ReduceMax', ['weights'], {}, ['largest']);
        net.output('largest');
      };
      assert.match(keptReason(used), /probabilities are used by ReduceMax/);
    });
    it('where the scores are used by something else', () => {
      const used = (net: Net) => {
        net.op('Relu', ['scores'], {}, ['z']);
        net.output('z');
      };
      assert.match(keptReason(used), /scores are used by Relu/);
    });
    it('in float64', () => {
      const net = attentionNet();
      for (const tensor of net.initializers) {
        if (tensor.dataType !== DataType.FLOAT || !('data' in tensor)) continue;
        const data = Float64Array.from(new Float32Array(tensor.data.buffer.slice(0)));
        Object.assign(tensor, { dataType: DataType.DOUBLE, data: new Uint8Array(data.buffer) });
      }
      for (const value of [...net.inputs, ...net.outputs])
        Object.assign(value, { dataType: DataType.DOUBLE });
      const [site] = inspectNet(net).sites;
      assert.equal(site!.dtype, 'float64');
      assert.match(site!.reason!, /float64/);
    });
    it('with a cap on the scores', () => {
      const capped = (net: Net, scores: string) =>
        net.op('Mul', [net.op('Tanh', [net.op('Div', [scores, net.scalar(30)])]), net.scalar(30)]);
      const [site] = inspectNet(attentionNet({ mask: capped })).sites;
      assert.deepEqual([site!.mask, site!.scale, site!.replaceable], ['other', 1, false]);
      assert.match(site!.reason!, /capped/);
    });
    it('with a cap far above the scores of a small scale', () => {
      const factors: Factor[] = [{ at: 'scores', op: 'Mul', value: 1 / 16 }];
      const capped = (net: Net, scores: string) =>
        net.op('Mul', [net.op('Tanh', [net.op('Div', [scores, net.scalar(50)])]), net.scalar(50)]);
      const clamped = (net: Net, scores: string) => net.op('Clip', [scores, net.scalar(-200)]);
      for (const mask of [capped, clamped]) {
        assert.match(siteOf({ factors, mask }).reason!, /capped/);
        assert.match(siteOf({ factors, mask, half: true }).reason!, /capped/);
      }
    });
    it('but not with a bound that only keeps half precision from overflow', () => {
      const mask = (net: Net, scores: string) =>
        net.op('Clip', [scores, net.scalar(-65504), net.scalar(65504)]);
      assertPlain(siteOf({ mask }));
      assertPlain(siteOf({ mask, half: true }), { dtype: 'float16' });
    });
    for (const [what, sequence, reason] of [
      ['without causality, with keys that join a cache', 'sequence', /cache.*not causal/],
      ['with a cache and one query', 1, /one query a step/],
    ] as const) {
      it(what, () => {
        const net = attentionNet();
        Object.assign(net.inputs[0]!, { dims: ['batch', sequence, WIDTH] });
        net.input('past', ['batch', HEADS, 'past', SIZE]);
        withKeys(net, (own, name) => net.op('Concat', ['past', own], { axis: 2 }, [name]));
        const [site] = inspectNet(net).sites;
        assert.deepEqual([site!.kind, site!.past, site!.replaceable], ['cached', true, false]);
        assert.equal(site!.key.value, 'keys');
        assert.match(site!.reason!, reason);
      });
    }
  });

  describe('is not seen', () => {
    const missReason = (net: Net): string => {
      const { sites, nearMisses } = inspectNet(net);
      assert.equal(sites.length, 0);
      assert.equal(nearMisses.length, 1);
      return nearMisses[0]!.reason;
    };
    /** Changes the node that computes a value. */
    const changed = (output: string, change: object): Net => {
      const net = attentionNet();
      Object.assign(net.nodes.find(({ outputs }) => outputs[0] === output)!, change);
      return net;
    };

    it('in a softmax along another axis', () => {
      assert.match(missReason(attentionNet({ softmaxAxis: 2 })), /axis 2/);
    });
    it('in products of data with weights', () => {
      const net = attentionNet();
      const scores = net.nodes.find(({ outputs }) => outputs[0] === 'scores')!;
      const weights = net.tensor(
        [SIZE, 6],
        Array.from({ length: SIZE * 6 }, (_, i) => i),
      );
      Object.assign(scores, { inputs: [scores.inputs[0]!, weights] });
      const values = net.nodes.find(({ outputs }) => outputs[0] === 'sum')!;
      Object.assign(values, {
        inputs: [values.inputs[0]!, net.tensor([6, SIZE], Array(6 * SIZE).fill(0.5))],
      });
      assert.match(missReason(net), /constant/);
    });
    it('in scores with a second product of the query', () => {
      const net = attentionNet({
        mask: (inner, scores, query) =>
          inner.op('Add', [scores, inner.op('ReduceSum', [query, inner.ints(-1)], { keepdims: 1 })]),
      });
      assert.match(missReason(net), /further term/);
    });
    it('in probabilities that something else changes before they weight the values', () => {
      const net = changed('sum', {});
      const sum = net.nodes.find(({ outputs }) => outputs[0] === 'sum')!;
      const squared = net.op('Mul', ['weights', 'weights']);
      Object.assign(sum, { inputs: [squared, sum.inputs[1]!] });
      assert.match(missReason(net), /probabilities go into Mul/);
    });
    describe('in products of quantized numbers', () => {
      /** What takes the place of the product that makes a value: the same product of what `change` makes of its factors. */
      const quantized = (
        change: (net: Net, left: string, right: string, output: string) => void,
        ...products: string[]
      ) => {
        const net = attentionNet();
        for (const name of products) {
          const product = net.nodes.findIndex(({ outputs }) => outputs[0] === name);
          const [{ inputs }] = net.nodes.splice(product, 1) as [(typeof net.nodes)[number]];
          change(net, inputs[0]!, inputs[1]!, name);
        }
        assert.match(missReason(net), /rewrite the model before it is quantized/);
      };
      const scale = (net: Net) => net.scalar(0.1);
      const zero = (net: Net) => net.stored(uint8s(`zero_${net.initializers.length}`, [], [128]));
      const rounded = (net: Net, value: string) => {
        const numbers = net.op('QuantizeLinear', [value, scale(net), zero(net)]);
        return net.op('DequantizeLinear', [numbers, scale(net), zero(net)]);
      };
      const inIntegers = (net: Net, left: string, right: string, output: string) => {
        const parts = [left, right].map(value => {
          const names = ['numbers', 'scale', 'zero'].map(part => `${value}_${part}`);
          net.op('DynamicQuantizeLinear', [value], {}, names);
          return names as [string, string, string];
        });
        const [[a, aScale, aZero], [b, bScale, bZero]] = parts as [
          [string, string, string],
          [string, string, string],
        ];
        const product = net.op('Cast', [net.op('MatMulInteger', [a, b, aZero, bZero])], {
          to: DataType.FLOAT,
        });
        net.op('Mul', [product, net.op('Mul', [aScale, bScale])], {}, [output]);
      };

      it('as fake quantization writes them', () => {
        const change = (net: Net, left: string, right: string, output: string) =>
          net.op(
            'Identity',
            [rounded(net, net.op('MatMul', [rounded(net, left), rounded(net, right)]))],
            {},
            [output],
          );
        quantized(change, 'scores', 'sum');
      });
      it('in integers', () => quantized(inIntegers, 'scores', 'sum'));
      it('in integers, for the values alone', () => quantized(inIntegers, 'sum'));
    });
    it('in blocks that are put beside each other', () => {
      const net = attentionNet({
        mask: (inner, scores) => {
          const half = (start: number, end: number) =>
            inner.op('Slice', [scores, inner.ints(start), inner.ints(end), inner.ints(1)]);
          return inner.op('Concat', [half(0, 2), half(2, HEADS)], { axis: 1 });
        },
      });
      const sum = net.nodes.find(({ outputs }) => outputs[0] === 'sum')!;
      const padded = net.op('Pad', ['weights', net.ints(0, 0, 0, 0, 0, 0, 0, 0)]);
      Object.assign(sum, { inputs: [padded, sum.inputs[1]!] });
      assert.match(missReason(net), /found Concat/);
    });
    it('in a softmax over a projection, as at the end of a classifier', () => {
      const net = attentionNet();
      net.op('Softmax', [net.linear('y', WIDTH, 10)], {}, ['classes']);
      net.output('classes');
      const { sites, nearMisses } = inspectNet(net);
      assert.equal(sites.length, 1);
      assert.deepEqual(nearMisses, []);
    });
    it('in gates that route to experts', () => {
      const net = attentionNet();
      const gates = net.op('Softmax', [net.linear('y', WIDTH, 6)]);
      net.op('TopK', [gates, net.ints(2)], {}, ['best', 'which']);
      net.output('best');
      const { sites, nearMisses } = inspectNet(net);
      assert.equal(sites.length, 1);
      assert.deepEqual(nearMisses, []);
    });
  });

  it('gives sites of one scope different ids', () => {
    const net = attentionNet();
    const other = attentionNet();
    const renamed = (name: string) => (name === '' || name === 'x' ? name : `other_${name}`);
    for (const spec of other.nodes) {
      net.nodes.push({ ...spec, inputs: spec.inputs.map(renamed), outputs: spec.outputs.map(renamed) });
    }
    for (const tensor of other.initializers) net.stored({ ...tensor, name: renamed(tensor.name!) });
    net.output('other_y');
    const ids = inspectNet(net).sites.map(({ id }) => id);
    assert.deepEqual(ids, ['layers.0.attn', 'layers.0.attn#2']);
  });
});
