import assert from 'node:assert/strict';
import { crossoverOf, fitPowerLaw, scalingOf } from '../../cli/bench-report.js';
import { runsOf } from './example-bench.js';

describe('crossover', () => {
  const base = runsOf('original', { 1000: 10, 2000: 40, 4000: 160 });
  const against = (medians: Readonly<Record<number, number | null>>, original = base) => {
    const { length, estimate } = crossoverOf(original, runsOf('rewritten', medians));
    return [length, estimate];
  };

  it('is the shortest length from which on the other model stays ahead', () => {
    assert.deepEqual(against({ 1000: 20, 2000: 39, 4000: 80 })[0], 2000);
    assert.deepEqual(against({ 1000: 9, 2000: 41, 4000: 80 })[0], 4000);
    assert.deepEqual(against({ 1000: 9, 2000: 30, 4000: 80 }), [1000, null]);
  });

  it('is none where the other model is behind at the longest length', () => {
    assert.deepEqual(against({ 1000: 9, 2000: 30, 4000: 170 }), [null, null]);
  });

  it('estimates where both take the same time, on logarithmic axes', () => {
    // The original takes 1e-5 n^2 ms, the other 0.02 n: equal at 2000; and 0.0282843 n: equal at 2828.
    assert.deepEqual(against({ 1000: 20, 2000: 40, 4000: 80 }), [4000, 2000]);
    assert.deepEqual(against({ 1000: 28.28427, 2000: 56.56854, 4000: 113.13708 }), [4000, 2828]);
  });

  it('takes a model that fails as the slower one, and does not interpolate to it', () => {
    assert.deepEqual(
      against({ 1000: 20, 2000: 50, 4000: 180 }, runsOf('original', { 1000: 10, 2000: 40, 4000: null })),
      [4000, null],
    );
    assert.deepEqual(against({ 1000: 5, 2000: 20, 4000: null }), [null, null]);
  });

  it('leaves out lengths at which both fail', () => {
    const original = runsOf('original', { 1000: 10, 2000: 40, 4000: null });
    assert.deepEqual(against({ 1000: 20, 2000: 30, 4000: null }, original)[0], 2000);
  });
});

describe('scaling', () => {
  const near = (actual: number | undefined, expected: number) =>
    assert.ok(Math.abs(actual! - expected) < 1e-9, `${actual} is not ${expected}`);

  it('finds the exponent of a power of length', () => {
    for (const exponent of [0.5, 1, 1.15, 2]) {
      const law = fitPowerLaw([512, 1024, 4096, 65536].map(n => [n, 3e-4 * n ** exponent]));
      near(law?.exponent, exponent);
      assert.deepEqual([law?.points, law?.from, law?.to], [4, 512, 65536]);
    }
  });

  it('fits by least squares between points that are not on a line', () => {
    // Logarithms to base 2: (0, 0), (1, 3), (2, 3); slope 1.5.
    near(
      fitPowerLaw([
        [1, 1],
        [2, 8],
        [4, 8],
      ])?.exponent,
      1.5,
    );
  });

  it('leaves out what was not measured, and needs two lengths', () => {
    const law = fitPowerLaw([
      [1, 2],
      [2, null],
      [null, 4],
      [4, 0],
      [8, 16],
    ]);
    near(law?.exponent, 1);
    assert.equal(law?.points, 2);
    assert.equal(
      fitPowerLaw([
        [8, 2],
        [8, 3],
      ]),
      null,
    );
    assert.equal(fitPowerLaw([]), null);
  });

  it('tells how memory grows beyond what loading takes', () => {
    const { time, memory } = scalingOf(runsOf('a', { 1000: 5, 2000: 10, 4000: 20, 8000: null }));
    near(time?.exponent, 1);
    near(memory?.exponent, 2);
    assert.equal(memory?.points, 3);
  });
});
