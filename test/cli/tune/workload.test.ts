import assert from 'node:assert/strict';
import { timeLeft, Workload } from '../../../cli/tune/workload.js';

describe('a workload', () => {
  function started() {
    const told: [fraction: number, label: string][] = [];
    let now = 0;
    const workload = new Workload(
      (done, total, label) => told.push([done / total, label]),
      { first: 100, second: 300 },
      () => now,
    );
    const wait = (seconds: number) => {
      now += seconds;
    };
    return { workload, wait, last: () => told.at(-1)! };
  }

  it('divides phases by what they are expected to take', () => {
    const { workload, last } = started();
    workload.phase('first').step(1, 2, 'one');
    assert.deepEqual(last(), [0.125, 'about 6 min left · one']);
    workload.phase('second').part(0.5, 1).step(0, 3, 'two');
    assert.deepEqual(last(), [0.625, 'about 3 min left · two']);
    workload.expect({ second: 100 });
    workload.phase('second').step(1, 1, 'three');
    assert.deepEqual(last(), [1, 'about 5 s left · three']);
  });

  it('learns how much longer than expected things take, and not from what was skipped', () => {
    const { workload, wait, last } = started();
    const first = workload.phase('first');
    first.step(0, 10, 'begin');
    wait(20);
    first.step(1, 10, 'slow');
    assert.match(last()[1], /about 13 min left/);
    workload.phase('second').step(5, 10, 'the rest was known');
    assert.match(last()[1], /about 5 min left/);
  });

  it('says times as people do', () => {
    assert.equal(timeLeft(0), 'about 5 s left');
    assert.equal(timeLeft(34), 'about 30 s left');
    assert.equal(timeLeft(55), 'about 1 min left');
    assert.equal(timeLeft(400), 'about 7 min left');
  });
});
