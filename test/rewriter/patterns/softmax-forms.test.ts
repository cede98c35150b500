import assert from 'node:assert/strict';
import { tensorFrom, toNumbers } from '../../../cli/data/tensor.js';
import { multipoleAttention } from '../../../custom-ops/multipole-attention/operator.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import { decideUniformly } from '../../../rewriter/plan.js';
import { rewriteModel } from '../../../rewriter/rewrite-model.js';
import { FixtureSession } from '../../zoo/run-model.js';
import type { Net } from '../net.js';
import { attentionNet, HEADS, inspectNet, SIZE, WIDTH } from './attention-net.js';

type Probabilities = (net: Net, scores: string) => string;

/** Units in the last place of float32 that sums in another order make. */
const ROUNDING = 1e-12;

const softmax: Probabilities = (net, scores) => net.op('Softmax', [scores], { axis: -1 });

const reduced = (net: Net, opType: string, value: string, axis = -1) =>
  net.op(opType, [value, net.ints(axis)], { keepdims: 1 });

const shifted = (net: Net, scores: string, axis = -1) =>
  net.op('Sub', [scores, reduced(net, 'ReduceMax', scores, axis)]);

/** exp(x - max x) / sum exp(x - max x), as frameworks without an operator for it write it. */
const writtenOut: Probabilities = (net, scores) => {
  const exponentials = net.op('Exp', [shifted(net, scores)]);
  return net.op('Div', [exponentials, reduced(net, 'ReduceSum', exponentials)]);
};

/** exp(x - log sum exp x) */
const normalized: Probabilities = (net, scores) =>
  net.op('Exp', [net.op('Sub', [scores, reduced(net, 'ReduceLogSumExp', scores)])]);

/** Numbers [1,H,1,1], or what has their axes, as one more column of the scores. */
function repeated(net: Net, sinks: string, scores: string): string {
  const shape = net.op('Shape', [scores]);
  const lead = net.op('Slice', [shape, net.ints(0), net.ints(3)]);
  return net.op('Expand', [sinks, net.op('Concat', [lead, net.ints(1)], { axis: 0 })]);
}

const SINKS = [0.5, -1, 2, 0];

const withSinks = (
  place: 'first' | 'last',
  make: Probabilities,
  kept: (net: Net) => readonly [start: string, end: string] = net =>
    place === 'first' ? [net.ints(1), net.ints(2 ** 31)] : [net.ints(0), net.ints(-1)],
  sinks: (net: Net, scores: string) => string = (net, scores) =>
    repeated(net, net.op('Reshape', [net.tensor([HEADS], SINKS), net.ints(1, -1, 1, 1)]), scores),
): Probabilities => {
  return (net, scores) => {
    const column = sinks(net, scores);
    const joined = net.op('Concat', place === 'first' ? [column, scores] : [scores, column], { axis: -1 });
    return net.op('Slice', [make(net, joined), ...kept(net), net.ints(-1)]);
  };
};

describe('softmax', () => {
  const forms: Readonly<Record<string, Probabilities>> = {
    'of logits less the largest one': (net, scores) => softmax(net, shifted(net, scores)),
    'written out': writtenOut,
    'by its logarithm': (net, scores) => net.op('Exp', [net.op('LogSoftmax', [scores], { axis: -1 })]),
    // The subtraction rounds to the digits that the logarithm has: logits of ordinary size keep theirs.
    'of logits less the logarithm of their sum': (net, scores) =>
      normalized(net, net.op('Div', [scores, net.scalar(Math.sqrt(SIZE))])),
    'with sinks behind the keys': withSinks('last', (net, joined) => softmax(net, shifted(net, joined))),
    'with a sink of zero': (net, scores) => {
      const pads = net.ints(0, 0, 0, 0, 0, 0, 0, 1);
      const padded = net.op('Pad', [scores, pads]);
      return net.op('Slice', [softmax(net, padded), net.ints(0), net.ints(-1), net.ints(-1)]);
    },
    'with sinks before the keys, written out': withSinks('first', writtenOut),
  };
  for (const [name, probabilities] of Object.entries(forms)) {
    it(`${name} is replaced by what computes the same`, async () => {
      const net = attentionNet({ probabilities });
      const original = net.bytes({ opsetImports: { '': 18 } });
      const { model } = rewriteModel(original, sites => {
        const choice = { operator: multipoleAttention, settings: { retrieve: -1 }, selects: () => true };
        const decisions = decideUniformly(sites, choice, 0);
        assert.deepEqual(
          decisions.map(({ reason, replacement }) => replacement === null && reason),
          [false],
        );
        return decisions;
      });
      const random = new SeededRandom(5);
      const [batch, rows] = [2, 19];
      const data = Float64Array.from({ length: batch * rows * WIDTH }, () => random.normal());
      const feeds = new Map([['x', tensorFrom('float32', [batch, rows, WIDTH], data)]]);
      const sessions = [await FixtureSession.open(original), await FixtureSession.open(model)];
      const [expected, actual] = await Promise.all(
        sessions.map(async session => toNumbers((await session.run(feeds)).get('y')!)),
      );
      let [difference, size] = [0, 0];
      for (let i = 0; i < expected!.length; i++) {
        difference += (expected![i]! - actual![i]!) ** 2;
        size += expected![i]! ** 2;
      }
      assert.ok(difference <= ROUNDING * size, `${difference / size}`);
      await Promise.all(sessions.map(session => session.release()));
    });
  }

  describe('whose probabilities are changed afterwards', () => {
    const changed = (change: (net: Net, hidden: string, weights: string) => string, fill = -1e9) => {
      const hide = (net: Net) => {
        const isPresent = net.nodes.some(({ outputs }) => outputs[0] === 'hidden_pairs');
        if (isPresent) return 'hidden_pairs';
        const hidden = net.input('hidden', ['batch', 'sequence'], DataType.BOOL);
        return net.op('Unsqueeze', [hidden, net.ints(1, 2)], {}, ['hidden_pairs']);
      };
      return inspectNet(
        attentionNet({
          mask: (net, scores) => net.op('Where', [hide(net), net.scalar(fill), scores]),
          probabilities: (net, scores) => change(net, hide(net), softmax(net, scores)),
        }),
      );
    };

    it('where keys are hidden: rows without keys become zeros', () => {
      for (const fill of [-1e9, Number.NEGATIVE_INFINITY]) {
        const { sites } = changed((net, hidden, p) => net.op('Where', [hidden, net.scalar(0), p]), fill);
        assert.deepEqual([sites[0]?.replaceable, sites[0]?.emptyRow], [true, 'zeros']);
      }
    });

    it('where they are no numbers', () => {
      const mend = (net: Net, _: string, p: string) => {
        const numbers = net.op('Where', [net.op('IsNaN', [p]), net.scalar(0), p]);
        return net.op('Where', [net.op('IsInf', [numbers]), net.scalar(3e38), numbers]);
      };
      const { sites } = changed(mend, Number.NEGATIVE_INFINITY);
      assert.deepEqual([sites[0]?.replaceable, sites[0]?.emptyRow], [true, 'zeros']);
      assert.equal(changed(mend).sites[0]?.emptyRow, 'mean');
    });

    it('elsewhere: it is kept', () => {
      const changes: Parameters<typeof changed>[0][] = [
        (net, hidden, p) => net.op('Where', [net.op('Not', [hidden]), net.scalar(0), p]),
        (net, hidden, p) => net.op('Where', [hidden, net.scalar(1), p]),
        (net, _, p) => net.op('Where', [net.op('Less', [p, net.scalar(0.01)]), net.scalar(0), p]),
      ];
      for (const change of changes) {
        const { sites, nearMisses } = changed(change);
        assert.equal(sites.length, 0);
        assert.match(nearMisses[0]!.reason, /probabilities of visible keys are changed/);
      }
    });
  });

  it('does not claim a mean where the logarithm of a sum is lost', () => {
    const net = attentionNet({
      mask: (net, scores) => {
        const hidden = net.input('hidden', ['batch', 'sequence'], DataType.BOOL);
        return net.op('Where', [net.op('Unsqueeze', [hidden, net.ints(1, 2)]), net.scalar(-1e9), scores]);
      },
      probabilities: normalized,
    });
    assert.equal(inspectNet(net).sites[0]?.emptyRow, 'unknown');
  });

  it('tells its sinks', () => {
    const sinkOf = (probabilities: Probabilities) =>
      inspectNet(attentionNet({ probabilities })).sites[0]!.sink;
    assert.equal(sinkOf(softmax), null);
    assert.equal(typeof sinkOf(withSinks('last', softmax))!.value, 'string');
  });

  const kept: Readonly<Record<string, readonly [Probabilities, RegExp]>> = {
    'whose largest logit is that of a column': [
      (net, scores) => softmax(net, shifted(net, scores, -2)),
      /does not run along the last axis/,
    ],
    'less the logarithm of the sum of a column': [
      (net, scores) => net.op('Exp', [net.op('Sub', [scores, reduced(net, 'ReduceLogSumExp', scores, -2)])]),
      /does not run along the last axis/,
    ],
    'that drops a key with the sink': [
      withSinks('last', softmax, net => [net.ints(0), net.ints(-2)]),
      /more or less than the probability of its sink/,
    ],
    'that keeps the sink and drops a key': [
      withSinks('last', softmax, net => [net.ints(1), net.ints(2 ** 31)]),
      /more or less than the probability of its sink/,
    ],
    'with a sink of another number than zero that no value holds': [
      (net, scores) => {
        const padded = net.op('Pad', [scores, net.ints(0, 0, 0, 0, 0, 0, 0, 1), net.scalar(1)]);
        return net.op('Slice', [softmax(net, padded), net.ints(0), net.ints(-1), net.ints(-1)]);
      },
      /padded by something else than a column of zeros/,
    ],
    'with a sink for each row': [
      withSinks('last', softmax, undefined, (net, scores) => reduced(net, 'ReduceMean', scores)),
      /not one number for each head|further term/,
    ],
  };
  for (const [name, [probabilities, reason]] of Object.entries(kept)) {
    it(`${name} is kept`, () => {
      const { sites, nearMisses } = inspectNet(attentionNet({ probabilities }));
      assert.equal(sites.length, 0);
      assert.match(nearMisses.map(miss => miss.reason).join('; '), reason);
    });
  }
});
