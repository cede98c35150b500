import assert from 'node:assert/strict';
import { mean } from '../../../cli/statistics.js';
import {
  expectedChange,
  meanOf,
  type Observation,
  observedChange,
  slopeOf,
} from '../../../cli/tune/forecast.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';

const near = (actual: number, expected: number, tolerance = 1e-12) =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${actual} is not ${expected}`);

/** Windows whose values follow the divergence with the noise of single labels on top. */
function windows(random: SeededRandom, count: number, slope: number, noise: number): Observation[] {
  return Array.from({ length: count }, () => {
    const divergence = 1 + 0.2 * random.normal();
    return { change: slope * divergence + noise * random.normal(), divergence };
  });
}

describe('forecasts', () => {
  it('know the standard error of a mean', () => {
    const { mean: center, error } = meanOf([1, 2, 3, 6]);
    near(center, 3);
    near(error, Math.sqrt(14 / 3 / 4));
    assert.deepEqual(meanOf([5]), { mean: 5, error: 0 });
  });

  it('are what was observed where nothing is known beforehand', () => {
    const seen = windows(new SeededRandom(1), 8, 1.4, 0.5);
    near(expectedChange(seen, null, 2).mean, observedChange(seen, 2).mean);
    near(slopeOf(seen, null).mean, mean(seen.map(o => o.change)) / mean(seen.map(o => o.divergence)));
  });

  it('are the divergence where value and divergence are the same', () => {
    const seen = [0.2, 0.4].map(error => ({ change: error, divergence: error }));
    const { mean: center, error } = expectedChange(seen, { mean: 1, error: 0 }, 1);
    near(center, 0.3);
    near(error, 0.1);
  });

  it('are closer to the truth than what was observed, and as far off as they say', () => {
    const random = new SeededRandom(2);
    const prior = { mean: 1, error: 0.3 };
    const forecasts: number[] = [];
    const observed: number[] = [];
    const claimed: number[] = [];
    for (let run = 0; run < 400; run++) {
      const slope = prior.mean + prior.error * random.normal();
      const seen = windows(random, 8, slope, 1);
      const forecast = expectedChange(seen, prior, 1);
      forecasts.push((forecast.mean - slope) ** 2);
      claimed.push(forecast.error ** 2);
      observed.push((observedChange(seen, 1).mean - slope) ** 2);
    }
    assert.ok(mean(forecasts) < 0.7 * mean(observed), `${mean(forecasts)} against ${mean(observed)}`);
    const calibration = mean(forecasts) / mean(claimed);
    assert.ok(calibration > 0.7 && calibration < 1.4, `${calibration}`);
  });

  it('learn from many windows that a prior is wrong', () => {
    const seen = windows(new SeededRandom(3), 400, 2, 0.3);
    near(slopeOf(seen, { mean: 1, error: 0.3 }).mean, 2, 0.05);
  });

  it('take few windows for no more than they are', () => {
    const prior = { mean: 1, error: 0.3 };
    const seen = [-3, -3.1, -3].map(change => ({ change, divergence: 1 }));
    assert.deepEqual(slopeOf(seen.slice(0, 1), prior), prior);
    assert.deepEqual(expectedChange(seen, prior, 1), prior);
    assert.ok(expectedChange([...seen, ...seen], prior, 1).mean < -2);
    assert.equal(expectedChange([{ change: 0.1, divergence: 0 }], null, 1).mean, 0.1);
  });
});
