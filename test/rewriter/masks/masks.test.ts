import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { MASK_RULES } from '../../../rewriter/masks/index.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import type { AttentionSite } from '../../../rewriter/site.js';
import type { Net } from '../net.js';
import { attentionNet, HEADS, inspectNet, type Variation } from '../patterns/attention-net.js';

const { BOOL, FLOAT, FLOAT16, INT64 } = DataType;
const LOWEST = -3.4028234663852886e38;
const INFINITE = Number.NEGATIVE_INFINITY;

type Mask = (net: Net, scores: string) => string;

function siteWith(mask: Mask, variation: Variation = {}): AttentionSite {
  const { sites, nearMisses } = inspectNet(attentionNet({ ...variation, mask }));
  assert.equal(sites.length, 1, nearMisses.map(({ reason }) => reason).join('; '));
  return sites[0]!;
}

const claims = ({ mask, causal, replaceable }: AttentionSite) => [mask, causal, replaceable];

/** Length of an axis of the scores, as a list of one. */
const length = (net: Net, scores: string, axis: number) =>
  net.op('Slice', [net.op('Shape', [scores]), net.ints(axis), net.ints(axis === -1 ? 2 ** 40 : axis + 1)]);

const lengthAsScalar = (net: Net, scores: string, axis: number) =>
  net.op('Squeeze', [length(net, scores, axis), net.ints(0)]);

/** Positions 0, 1, ... along an axis of the scores. */
const positions = (net: Net, scores: string, axis: number) =>
  net.op('Range', [net.int(0), lengthAsScalar(net, scores, axis), net.int(1)]);

/** Key position minus query position, [queries, keys]. */
const distances = (net: Net, scores: string) =>
  net.op('Sub', [positions(net, scores, -1), net.op('Unsqueeze', [positions(net, scores, -2), net.ints(1)])]);

const fill = (net: Net, keep: string, scores: string, value: number): string =>
  net.op('Where', [keep, scores, net.scalar(value)]);

const add = (net: Net, keep: string, scores: string, value: number): string =>
  net.op('Add', [scores, net.op('Where', [keep, net.scalar(0), net.scalar(value)])]);

const attentionMask = (net: Net, dataType = INT64) =>
  net.input('attention_mask', ['batch', 'sequence'], dataType);

/** Which keys are present, [batch, 1, 1, keys]. */
const presentKeys = (net: Net) =>
  net.op('Unsqueeze', [net.op('Cast', [attentionMask(net)], { to: BOOL }), net.ints(1, 2)]);

/** Visible pairs of causal attention, in the ways that exporters write them. */
const CAUSAL: Readonly<Record<string, Mask>> = {
  'comparison of positions': (net, scores) =>
    fill(net, net.op('LessOrEqual', [distances(net, scores), net.int(0)]), scores, LOWEST),
  'lower triangle of ones': (net, scores) => {
    const shape = net.op('Concat', [length(net, scores, -2), length(net, scores, -1)], { axis: 0 });
    const triangle = net.op('Trilu', [net.op('Expand', [net.scalar(1), shape])], { upper: 0 });
    const hidden = net.op('Equal', [triangle, net.scalar(0)]);
    return net.op('Add', [scores, net.op('Where', [hidden, net.scalar(INFINITE), net.scalar(0)])]);
  },
  'upper triangle of infinities': (net, scores) => {
    const shape = net.op('Concat', [length(net, scores, -2), length(net, scores, -1)], { axis: 0 });
    const filled = net.op('Expand', [net.scalar(INFINITE), shape]);
    return net.op('Add', [scores, net.op('Trilu', [filled, net.int(1)])]);
  },
  'running sum over ones': (net, scores) => {
    const row = net.op('Concat', [net.ints(1), length(net, scores, -1)], { axis: 0 });
    const steps = net.op('CumSum', [net.op('Expand', [net.int(1), row]), net.int(1)]);
    const transposed = net.op('Transpose', [steps], { perm: [1, 0] });
    return fill(net, net.op('GreaterOrEqual', [transposed, steps]), scores, LOWEST);
  },
  'stored triangle, cut to length': (net, scores) => {
    const size = 40;
    const data = Uint8Array.from({ length: size * size }, (_, i) => Number(i % size <= Math.floor(i / size)));
    const stored = net.stored({ name: 'triangle', dataType: BOOL, dims: [1, 1, size, size], data });
    const ends = net.op('Concat', [length(net, scores, -2), length(net, scores, -1)], { axis: 0 });
    return fill(net, net.op('Slice', [stored, net.ints(0, 0), ends, net.ints(2, 3)]), scores, -1e4);
  },
  'product with a triangle, as GPT-2 had it': (net, scores) => {
    const keep = net.op('Cast', [net.op('LessOrEqual', [distances(net, scores), net.int(0)])], { to: FLOAT });
    const away = net.op('Mul', [net.op('Sub', [net.scalar(1), keep]), net.scalar(-1e4)]);
    return net.op('Add', [net.op('Mul', [scores, keep]), away]);
  },
};

describe('masks', () => {
  it('have one file for each kind, in order of precedence', () => {
    const kinds = MASK_RULES.map(({ kind }) => kind);
    assert.deepEqual(kinds, [
      'other',
      'additive-bias',
      'relative-bias',
      'sliding-window',
      'causal+padding',
      'causal',
      'key-padding',
      'all-true',
      'none',
    ]);
    const files = readdirSync(new URL('../../../../rewriter/masks/', import.meta.url));
    for (const kind of kinds) assert.ok(files.includes(`${kind.replace('+', '-')}.ts`), kind);
  });

  it('none, and one that hides nothing', () => {
    assert.deepEqual(claims(siteWith((_, scores) => scores)), ['none', false, true]);
    const trivial: Mask = (net, scores) =>
      add(net, net.op('GreaterOrEqual', [positions(net, scores, -1), net.int(0)]), scores, LOWEST);
    assert.deepEqual(claims(siteWith(trivial)), ['all-true', false, true]);
    const zero: Mask = (net, scores) => net.op('Add', [scores, net.tensor([1, 1, 1, 1], [0])]);
    assert.deepEqual(claims(siteWith(zero)), ['all-true', false, true]);
  });

  describe('causal', () => {
    for (const [name, mask] of Object.entries(CAUSAL)) {
      it(name, () => {
        const site = siteWith(mask);
        assert.deepEqual(claims(site), ['causal', true, true]);
        assert.deepEqual([site.alignment, site.emptyRow, site.keyMask], ['equal', 'never', null]);
      });
    }

    it('from the first key, where there are more keys than queries', () => {
      const site = siteWith(CAUSAL['comparison of positions']!, { memory: true });
      assert.deepEqual([site.mask, site.kind, site.alignment], ['causal', 'cross', 'upper-left']);
    });

    it('up to the last key, where there are more keys than queries', () => {
      const mask: Mask = (net, scores) => {
        const shift = net.op('Sub', [lengthAsScalar(net, scores, -1), lengthAsScalar(net, scores, -2)]);
        return fill(net, net.op('LessOrEqual', [distances(net, scores), shift]), scores, LOWEST);
      };
      const site = siteWith(mask, { memory: true });
      assert.deepEqual([site.mask, site.alignment], ['causal', 'bottom-right']);
    });

    it('not when a query sees one key ahead, or not its own', () => {
      const upTo = (limit: number) =>
        siteWith((net, scores) =>
          fill(net, net.op('LessOrEqual', [distances(net, scores), net.int(limit)]), scores, LOWEST),
        );
      assert.deepEqual(upTo(1).window, { left: null, right: 1 });
      assert.equal(upTo(1).causal, false);
      assert.match(upTo(-1).reason!, /its window does not start or end at the position of a row/);
    });
  });

  describe('key padding', () => {
    const hides: Readonly<
      Record<
        string,
        { mask: Mask; value: string; visible?: 'zero' | 'count'; empty: AttentionSite['emptyRow'] }
      >
    > = {
      'a mask of integers, added': {
        mask: (net, scores) => add(net, presentKeys(net), scores, LOWEST),
        value: 'attention_mask',
        empty: 'mean',
      },
      'a mask of integers, filled in': {
        mask: (net, scores) => fill(net, presentKeys(net), scores, INFINITE),
        value: 'attention_mask',
        empty: 'nan',
      },
      'one minus the mask times -10000': {
        mask: (net, scores) => {
          const mask = net.op('Cast', [net.op('Unsqueeze', [attentionMask(net), net.ints(1, 2)])], {
            to: FLOAT,
          });
          const away = net.op('Mul', [net.op('Sub', [net.scalar(1), mask]), net.scalar(-1e4)]);
          return net.op('Add', [scores, away]);
        },
        value: 'attention_mask',
        empty: 'unknown',
      },
      'a mask of floats': {
        mask: (net, scores) => {
          const mask = net.op('Unsqueeze', [attentionMask(net, FLOAT), net.ints(1, 2)]);
          return net.op('Add', [
            scores,
            net.op('Mul', [net.op('Sub', [net.scalar(1), mask]), net.scalar(-1e9)]),
          ]);
        },
        value: 'attention_mask',
        empty: 'mean',
      },
      'as many as the mask has ones, as speech encoders count frames': {
        mask: (net, scores) => {
          const mask = attentionMask(net);
          const count = net.op('ReduceSum', [mask, net.ints(1)], { keepdims: 1 }, ['count']);
          const one = net.op('Add', [net.op('Mul', [count, net.int(0)]), net.int(1)]);
          const last = net.op(
            'ScatterElements',
            [net.op('Mul', [mask, net.int(0)]), net.op('Sub', [count, one]), one],
            { axis: 1 },
          );
          const frames = net.op('CumSum', [last, net.int(1)], { reverse: 1 });
          const wide = net.op('Unsqueeze', [net.op('Cast', [frames], { to: BOOL }), net.ints(1, 2)]);
          return fill(net, wide, scores, LOWEST);
        },
        value: 'count',
        visible: 'count',
        empty: 'unknown',
      },
      'a mask that marks what is absent': {
        mask: (net, scores) => {
          const absent = net.input('key_padding_mask', ['batch', 'sequence'], BOOL);
          const wide = net.op('Unsqueeze', [absent, net.ints(1, 2)]);
          return net.op('Where', [wide, net.scalar(INFINITE), scores]);
        },
        value: 'key_padding_mask',
        visible: 'zero',
        empty: 'nan',
      },
      'gathered by a grid of indices': {
        mask: (net, scores) => {
          const keys = positions(net, scores, -1);
          const batch = net.op('Unsqueeze', [positions(net, scores, 0), net.ints(1)]);
          const shape = net.op('Concat', [length(net, scores, 0), length(net, scores, -1)], { axis: 0 });
          const grid = net.op(
            'Concat',
            [batch, keys].map(index => net.op('Unsqueeze', [net.op('Expand', [index, shape]), net.ints(-1)])),
            { axis: -1 },
          );
          const present = net.op('GatherND', [net.op('Cast', [attentionMask(net)], { to: BOOL }), grid]);
          return add(net, net.op('Unsqueeze', [present, net.ints(1, 2)]), scores, LOWEST);
        },
        value: 'attention_mask',
        empty: 'mean',
      },
    };
    for (const [name, { mask, value, visible = 'nonzero', empty }] of Object.entries(hides)) {
      it(name, () => {
        const site = siteWith(mask);
        assert.deepEqual(claims(site), ['key-padding', false, true]);
        assert.deepEqual(
          [site.keyMask!.value, site.keyMask!.visible, site.emptyRow],
          [value, visible, empty],
        );
      });
    }

    it('by token ids: the comparison is the key mask, whatever the id', () => {
      for (const padding of [0, 1, 50256]) {
        const mask: Mask = (net, scores) => {
          const ids = net.input('input_ids', ['batch', 'sequence'], INT64);
          net.op('Not', [net.op('Equal', [ids, net.int(padding)])], {}, ['present']);
          return add(net, net.op('Unsqueeze', ['present', net.ints(1, 2)]), scores, LOWEST);
        };
        const site = siteWith(mask);
        assert.equal(site.mask, 'key-padding', `padding ${padding}`);
        // Where padding is 0, the ids themselves tell; otherwise only a comparison does.
        assert.equal(site.keyMask!.value, padding === 0 ? 'input_ids' : site.keyMask!.value);
        if (padding !== 0) assert.notEqual(site.keyMask!.value, 'input_ids');
      }
    });

    it('guarded rows without keys are zeros', () => {
      const site = siteWith((net, scores) => fill(net, presentKeys(net), scores, INFINITE), {
        guarded: true,
      });
      assert.equal(site.emptyRow, 'zeros');
    });

    it('with causality: both, and the key mask is the padding alone', () => {
      const mask: Mask = (net, scores) => {
        const causal = net.op('LessOrEqual', [distances(net, scores), net.int(0)]);
        return add(net, net.op('And', [causal, presentKeys(net)]), scores, LOWEST);
      };
      const site = siteWith(mask);
      assert.deepEqual(claims(site), ['causal+padding', true, true]);
      assert.equal(site.keyMask!.value, 'attention_mask');
    });

    it('is no more than a bias while it leaves something to see', () => {
      const site = siteWith((net, scores) => add(net, presentKeys(net), scores, -100));
      assert.equal(site.replaceable, false);
    });

    it('in half precision counts on no rounding that a runtime may not do', () => {
      const mask: Mask = (net, scores) => {
        const low = net.op('Cast', [net.op('Where', [presentKeys(net), net.scalar(0), net.scalar(-65504)])], {
          to: FLOAT16,
        });
        const half = net.op('Cast', [scores], { to: FLOAT16 });
        return net.op('Cast', [net.op('Add', [half, low])], { to: FLOAT });
      };
      const site = siteWith(mask);
      assert.deepEqual([site.mask, site.emptyRow], ['key-padding', 'unknown']);
    });
  });

  describe('sliding window', () => {
    const within = (net: Net, scores: string, limit: number) =>
      net.op('LessOrEqual', [net.op('Abs', [distances(net, scores)]), net.int(limit)]);
    for (const limit of [1, 3, 64, 4096]) {
      it(`of ${limit} on each side`, () => {
        const site = siteWith((net, scores) => fill(net, within(net, scores, limit), scores, LOWEST));
        assert.deepEqual(claims(site), ['sliding-window', false, true]);
        assert.deepEqual(site.window, { left: limit, right: limit });
      });
    }

    it('of a causal model', () => {
      const mask: Mask = (net, scores) => {
        const causal = net.op('LessOrEqual', [distances(net, scores), net.int(0)]);
        return fill(net, net.op('And', [causal, within(net, scores, 500)]), scores, LOWEST);
      };
      const site = siteWith(mask);
      assert.deepEqual(claims(site), ['sliding-window', true, true]);
      assert.deepEqual(site.window, { left: 500, right: 0 });
    });

    it('to the key, where its size is computed', () => {
      for (const [size, parts] of [
        [1000, 9],
        [777, 2],
        [50, 4],
      ] as const) {
        const mask: Mask = (net, scores) => {
          const limit = net.op('Div', [net.op('Mul', [net.int(size), net.int(1)]), net.int(parts)]);
          const near = net.op('LessOrEqual', [net.op('Abs', [distances(net, scores)]), limit]);
          return fill(net, near, scores, LOWEST);
        };
        const limit = Math.floor(size / parts);
        assert.deepEqual(siteWith(mask).window, { left: limit, right: limit });
      }
    });

    it('by the position of a row where there are more keys than queries, which only a causal mask tells', () => {
      const shifted = (isCausal: boolean, fromEnd: boolean) =>
        siteWith(
          (net, scores) => {
            const shift = net.op('Sub', [lengthAsScalar(net, scores, -1), lengthAsScalar(net, scores, -2)]);
            const ahead = distances(net, scores);
            const distance = fromEnd ? net.op('Sub', [ahead, shift]) : ahead;
            const near = net.op('LessOrEqual', [net.op('Abs', [distance]), net.int(5)]);
            const earlier = net.op('LessOrEqual', [distance, net.int(0)]);
            return fill(net, isCausal ? net.op('And', [near, earlier]) : near, scores, LOWEST);
          },
          { memory: true },
        );
      for (const fromEnd of [false, true]) {
        const site = shifted(true, fromEnd);
        assert.deepEqual(site.window, { left: 5, right: 0 });
        assert.equal(site.alignment, fromEnd ? 'bottom-right' : 'upper-left');
        assert.equal(shifted(false, fromEnd).window, null);
      }
    });
  });

  describe('bias', () => {
    const slopes = (net: Net) => net.tensor([HEADS, 1, 1], [0.5, 0.25, 0.125, 0.0625]);
    const asFloat = (net: Net, value: string) => net.op('Cast', [value], { to: FLOAT });

    it('by distance, with slopes or by buckets of a learned table', () => {
      const alibi: Mask = (net, scores) =>
        net.op('Add', [scores, net.op('Mul', [asFloat(net, distances(net, scores)), slopes(net)])]);
      assert.deepEqual(claims(siteWith(alibi)), ['relative-bias', false, false]);
      const byKey: Mask = (net, scores) =>
        net.op('Add', [scores, net.op('Mul', [asFloat(net, positions(net, scores, -1)), slopes(net)])]);
      assert.equal(siteWith(byKey).mask, 'relative-bias');
      const table: Mask = (net, scores) => {
        const bucket = net.op('Clip', [
          net.op('Add', [distances(net, scores), net.int(4)]),
          net.int(0),
          net.int(8),
        ]);
        const values = net.tensor(
          [9, HEADS],
          Array.from({ length: 9 * HEADS }, (_, i) => Math.sin(i)),
        );
        const bias = net.op('Transpose', [net.op('Gather', [values, bucket])], { perm: [2, 0, 1] });
        return net.op('Add', [scores, net.op('Unsqueeze', [bias, net.ints(0)])]);
      };
      const { mask, scale } = siteWith(table);
      assert.deepEqual([mask, scale], ['relative-bias', 1]);
    });

    it('by distance of a causal model stays causal', () => {
      const mask: Mask = (net, scores) => {
        const biased = net.op('Add', [
          scores,
          net.op('Mul', [asFloat(net, distances(net, scores)), slopes(net)]),
        ]);
        return CAUSAL['comparison of positions']!(net, biased);
      };
      assert.deepEqual(claims(siteWith(mask)), ['relative-bias', true, false]);
    });

    it('by absolute positions, or by data', () => {
      const absolute: Mask = (net, scores) => {
        const product = net.op('Mul', [
          asFloat(net, positions(net, scores, -1)),
          asFloat(net, net.op('Unsqueeze', [positions(net, scores, -2), net.ints(1)])),
        ]);
        return net.op('Add', [scores, product]);
      };
      assert.equal(siteWith(absolute).mask, 'additive-bias');
      const data: Mask = (net, scores) =>
        net.op('Add', [scores, net.input('bias', ['batch', HEADS, 'sequence', 'sequence'])]);
      assert.deepEqual(claims(siteWith(data)), ['additive-bias', false, false]);
    });

    it('common to a row is none', () => {
      const mask: Mask = (net, scores) =>
        net.op('Add', [scores, asFloat(net, net.op('Unsqueeze', [positions(net, scores, -2), net.ints(1)]))]);
      assert.deepEqual(claims(siteWith(mask)), ['all-true', false, true]);
    });
  });

  describe('other', () => {
    it('pairs that a mask of the caller hides', () => {
      const mask: Mask = (net, scores) =>
        fill(net, net.input('mask', ['batch', 1, 'sequence', 'sequence'], BOOL), scores, LOWEST);
      assert.deepEqual(claims(siteWith(mask)), ['other', false, false]);
    });

    it('blocks of tokens that belong together', () => {
      const mask: Mask = (net, scores) => {
        const ids = net.input('segment_ids', ['batch', 'sequence'], INT64);
        const same = net.op('Equal', [
          net.op('Unsqueeze', [ids, net.ints(1)]),
          net.op('Unsqueeze', [ids, net.ints(2)]),
        ]);
        return fill(net, net.op('Unsqueeze', [same, net.ints(1)]), scores, LOWEST);
      };
      assert.deepEqual(claims(siteWith(mask)), ['other', false, false]);
    });

    it('a prefix that all may see, in front of causal attention', () => {
      const mask: Mask = (net, scores) => {
        const causal = net.op('LessOrEqual', [distances(net, scores), net.int(0)]);
        const prefix = net.op('Less', [positions(net, scores, -1), net.int(3)]);
        return fill(net, net.op('Or', [causal, prefix]), scores, LOWEST);
      };
      assert.deepEqual(claims(siteWith(mask)), ['other', false, false]);
    });

    it('chunks of the sequence', () => {
      const mask: Mask = (net, scores) => {
        const chunk = (axis: number) => net.op('Div', [positions(net, scores, axis), net.int(100)]);
        const same = net.op('Equal', [chunk(-1), net.op('Unsqueeze', [chunk(-2), net.ints(1)])]);
        return fill(net, same, scores, LOWEST);
      };
      assert.deepEqual(claims(siteWith(mask)), ['other', false, false]);
    });

    it('what depends on activations', () => {
      const mask: Mask = (net, scores) => {
        const strength = net.op('ReduceMax', ['x'], { axes: [2], keepdims: 0 });
        const strong = net.op('Greater', [strength, net.scalar(0)]);
        return fill(net, net.op('Unsqueeze', [strong, net.ints(1, 2)]), scores, LOWEST);
      };
      assert.deepEqual(claims(siteWith(mask)), ['other', false, false]);
    });

    it('what an unknown operator makes', () => {
      const mask: Mask = (net, scores) => net.op('Add', [scores, net.op('Mystery', [scores])]);
      const { nearMisses, sites } = inspectNet(attentionNet({ mask }));
      assert.ok(sites.every(site => site.mask === 'other' && !site.replaceable));
      assert.equal(sites.length + nearMisses.length, 1);
    });
  });

  it('are looked at once for layers that share them', () => {
    const net = attentionNet({ mask: CAUSAL['lower triangle of ones']! });
    const other = attentionNet({ mask: CAUSAL['lower triangle of ones']! });
    const renamed = (name: string) => (name === '' || name === 'x' ? name : `other_${name}`);
    for (const spec of other.nodes) {
      net.nodes.push({ ...spec, inputs: spec.inputs.map(renamed), outputs: spec.outputs.map(renamed) });
    }
    for (const tensor of other.initializers) net.stored({ ...tensor, name: renamed(tensor.name!) });
    net.output('other_y');
    assert.deepEqual(
      inspectNet(net).sites.map(({ mask }) => mask),
      ['causal', 'causal'],
    );
  });
});
