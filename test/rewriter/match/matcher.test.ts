import assert from 'node:assert/strict';
import { isMatch, type Match, type Mismatch, match } from '../../../rewriter/match/matcher.js';
import {
  any,
  bound,
  constant,
  lazy,
  node,
  oneOf,
  type Pattern,
  through,
} from '../../../rewriter/match/pattern.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import { Net } from '../net.js';

/** Matches a pattern at `y` of a graph that `build` writes from x. */
function attempt(pattern: Pattern, build: (net: Net, x: string) => void): Match | Mismatch {
  const net = new Net();
  build(net, net.input('x', ['n']));
  net.output('y');
  const { main, constants } = net.load();
  return match(pattern, main.resolve('y')!, constants, () => 1);
}

function found(result: Match | Mismatch): Match {
  assert.ok(isMatch(result), 'reason' in result ? result.reason : '');
  return result;
}

function missed(result: Match | Mismatch): Mismatch {
  assert.ok(!isMatch(result));
  return result;
}

describe('match', () => {
  const scaled = node('Mul', [any('x'), constant('one half', value => value === 0.5)], { commutative: true });

  it('matches operators, constants and inputs in either order, and binds them', () => {
    for (const swapped of [false, true]) {
      const result = attempt(scaled, (net, x) => {
        const operands = [x, net.scalar(0.5)];
        net.op('Mul', swapped ? operands.reverse() : operands, {}, ['y']);
      });
      assert.equal(found(result).values.get('x')!.name, 'x');
    }
  });

  it('takes no constant for a wildcard', () => {
    const { reason, node: at } = missed(
      attempt(scaled, (net, x) => net.op('Mul', [x, net.scalar(0.25)], {}, ['y'])),
    );
    assert.match(reason, /one half/);
    assert.equal(at!.type, 'Mul');
  });

  it('keeps the order of inputs where it matters', () => {
    const pattern = node('Sub', [any(), constant('1', value => value === 1)]);
    found(attempt(pattern, (net, x) => net.op('Sub', [x, net.scalar(1)], {}, ['y'])));
    missed(attempt(pattern, (net, x) => net.op('Sub', [net.scalar(1), x], {}, ['y'])));
  });

  it('tells operators of different domains apart', () => {
    const gelu = (net: Net, x: string) => net.op('com.microsoft::Gelu', [x], {}, ['y']);
    found(attempt(node('com.microsoft::Gelu', [any()]), gelu));
    missed(attempt(node('Gelu', [any()]), gelu));
  });

  it('goes back over choices that fail later', () => {
    const pattern = node('Add', [
      oneOf('form', { exp: node('Exp', [any('inner')]), any: any('inner') }),
      node('Neg', [bound('inner', any())]),
    ]);
    const result = attempt(pattern, (net, x) => {
      const exp = net.op('Exp', [x]);
      net.op('Add', [exp, net.op('Neg', [exp])], {}, ['y']);
    });
    assert.equal(found(result).choices.at(-1)!.alternative, 'any');
    assert.equal(found(result).values.get('inner')!.producer!.type, 'Exp');
  });

  it('wants a name bound twice to be one value', () => {
    const pattern = node('Add', [any('x'), node('Neg', [any('x')])]);
    found(attempt(pattern, (net, x) => net.op('Add', [x, net.op('Neg', [x])], {}, ['y'])));
    missed(attempt(pattern, (net, x) => net.op('Add', [x, net.op('Neg', [net.op('Abs', [x])])], {}, ['y'])));
  });

  it('follows patterns that refer to themselves', () => {
    const nested: Pattern = oneOf('nested', {
      again: node('Neg', [lazy(() => nested)]),
      end: node('Exp', [any('x')]),
    });
    const result = attempt(nested, (net, x) =>
      net.op('Neg', [net.op('Neg', [net.op('Exp', [x])])], {}, ['y']),
    );
    assert.deepEqual(
      found(result).matched.map(({ type }) => type),
      ['Neg', 'Neg', 'Exp'],
    );
  });

  it('looks through what leaves the numbers alone, not through casts to integers', () => {
    const pattern = through(node('Exp', [any()]), 'an exponential');
    const behind = (to: number) => (net: Net, x: string) => {
      const exp = net.op('Dropout', [net.op('Exp', [x])]);
      net.op('Cast', [net.op('Identity', [exp])], { to }, ['y']);
    };
    found(attempt(pattern, behind(DataType.FLOAT16)));
    const { reason } = missed(attempt(pattern, behind(DataType.INT64)));
    assert.match(reason, /an exponential|not floating/);
  });

  it('sees attributes through the pattern and says what does not fit', () => {
    const last = node('Softmax', [any()], {
      unfit: softmax => (softmax.int('axis', -1) === -1 ? null : 'runs along another axis'),
    });
    found(attempt(last, (net, x) => net.op('Softmax', [x], {}, ['y'])));
    const { reason } = missed(attempt(last, (net, x) => net.op('Softmax', [x], { axis: 0 }, ['y'])));
    assert.match(reason, /Softmax.*runs along another axis/);
  });

  it('refuses further inputs unless the pattern allows them', () => {
    const build = (net: Net, x: string) => net.op('Clip', [x, net.scalar(0)], {}, ['y']);
    missed(attempt(node('Clip', [any()]), build));
    found(attempt(node('Clip', [any()], { more: true }), build));
  });

  it('explains the attempt that got furthest', () => {
    const pattern = oneOf('either', {
      long: node('Neg', [node('Exp', [node('Abs', [any()])])]),
      short: node('Log', [any()]),
    });
    const {
      matched,
      node: at,
      reason,
    } = missed(
      attempt(pattern, (net, x) => net.op('Neg', [net.op('Exp', [net.op('Sqrt', [x])])], {}, ['y'])),
    );
    assert.deepEqual(
      matched.map(({ type }) => type),
      ['Neg', 'Exp'],
    );
    assert.equal(at!.type, 'Sqrt');
    assert.match(reason, /expected Abs; found Sqrt/);
  });

  it('lists what a choice expected, or the phrase that stands for it', () => {
    const options = { exp: node('Exp', [any()]), log: node('Log', [any()]) };
    const build = (net: Net, x: string) => net.op('Neg', [net.op('Sqrt', [x])], {}, ['y']);
    assert.match(missed(attempt(node('Neg', [oneOf('f', options)]), build)).reason, /expected Exp, Log/);
    const phrased = node('Neg', [oneOf('f', options, 'a transcendental')]);
    assert.match(missed(attempt(phrased, build)).reason, /expected a transcendental; found Sqrt/);
  });
});
