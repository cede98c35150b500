import type { InferenceSession as Session } from 'onnxruntime-common';
import { InferenceSession as OnnxRuntimeSession } from 'onnxruntime-node';
import { median } from '../../cli/statistics.js';
import {
  defaultParameters,
  type MultipoleParameters,
} from '../../custom-ops/multipole-attention/parameters.js';
import { DOMAIN } from '../../custom-ops/operator.js';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { nodeAttributes } from '../custom-ops/multipole-attention/body-model.js';
import { addition, floats, model } from '../native/tiny-models.js';
import { commandLine, printReport } from './command.js';

/**
 * What a native session costs besides the computation: overhead of a run beside onnxruntime-node's, how long
 * an asynchronous run holds the event loop up, and memory over runs of changing shapes:
 *
 *   node dist/test/bench/sessions.js --help
 *
 * Prints one JSON document.
 */
const { values: options } = commandLine('[--calls N] [--shapes N] [--threads N]', {
  calls: { type: 'string', default: '3000' },
  shapes: { type: 'string', default: '20000' },
  threads: { type: 'string', default: '1' },
});

const PERCENTILE = 0.99;

/** Median times of one run of an addition of four numbers, in microseconds; the ways of running take turns. */
async function overhead(calls: number): Promise<Record<string, number>> {
  const settings: Session.SessionOptions = { intraOpNumThreads: 1 };
  const theirs = await OnnxRuntimeSession.create(addition(), settings);
  const ours = await InferenceSession.create(addition(), settings);
  const feeds = { a: floats(1, 2, 3, 4), b: floats(5, 6, 7, 8) };
  const ways: Readonly<Record<string, () => unknown>> = {
    onnxruntime_node_run: () => theirs.run(feeds),
    run: () => ours.run(feeds),
    run_sync: () => ours.runSync(feeds),
  };
  const times = new Map(Object.keys(ways).map(way => [way, [] as number[]]));
  for (let call = -calls / 10; call < calls; call++) {
    for (const [way, run] of Object.entries(ways)) {
      const start = performance.now();
      const pending = run();
      // What a synchronous run returns is not waited for.
      if (pending instanceof Promise) await pending;
      if (call >= 0) times.get(way)!.push(1e3 * (performance.now() - start));
    }
  }
  await theirs.release();
  await ours.release();
  return Object.fromEntries([...times].map(([way, us]) => [way, median(us)]));
}

function attention(parameters: MultipoleParameters): Uint8Array {
  const value = (name: string) => ({
    name,
    dataType: DataType.FLOAT,
    dims: [1, 'heads', 'n', 'size'],
  });
  return model({
    nodes: [
      {
        opType: 'MultipoleAttention',
        domain: DOMAIN,
        inputs: ['query', 'key', 'value'],
        outputs: ['output'],
        attributes: nodeAttributes(parameters),
      },
    ],
    inputs: ['query', 'key', 'value'].map(value),
    outputs: [value('output')],
  });
}

function attentionFeeds(
  random: SeededRandom,
  heads: number,
  length: number,
  size: number,
): Session.FeedsType {
  const tensor = () => new Tensor('float32', random.normals(heads * length * size), [1, heads, length, size]);
  return { query: tensor(), key: tensor(), value: tensor() };
}

/** Gaps between the ticks of a timer of one millisecond while runs of attention over 8192 tokens are under way. */
async function eventLoop(threads: number): Promise<Record<string, number>> {
  const parameters = { ...defaultParameters(false), retrieve: [-1] };
  const session = await InferenceSession.create(attention(parameters), { intraOpNumThreads: threads });
  const feeds = attentionFeeds(new SeededRandom(1), 4, 8192, 64);
  await session.run(feeds);
  const gaps: number[] = [];
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    gaps.push(now - last);
    last = now;
  }, 1);
  const start = performance.now();
  for (let run = 0; run < 5; run++) await session.run(feeds);
  const run_ms = (performance.now() - start) / 5;
  clearInterval(timer);
  await session.release();
  gaps.sort((a, b) => a - b);
  return {
    threads,
    run_ms,
    ticks: gaps.length,
    gap_p99_ms: gaps[Math.floor(gaps.length * PERCENTILE)]!,
    gap_max_ms: gaps.at(-1)!,
  };
}

/** Resident memory over runs whose shapes keep changing, in bytes, at every tenth of them. */
async function memory(runs: number, threads: number): Promise<Record<string, unknown>> {
  const random = new SeededRandom(2);
  const parameters = { ...defaultParameters(false), segment: 32, queryClusters: 8, retrieve: [2], group: 8 };
  const session = await InferenceSession.create(attention(parameters), { intraOpNumThreads: threads });
  const resident: number[] = [];
  for (let run = 1; run <= runs; run++) {
    const feeds = attentionFeeds(random, 1 + random.below(3), 1 + random.below(400), 8);
    if (run % 2 === 0) await session.run(feeds);
    else session.runSync(feeds);
    if (run % (runs / 10) === 0) {
      globalThis.gc?.();
      resident.push(process.memoryUsage.rss());
    }
  }
  await session.release();
  return { runs, resident_bytes: resident };
}

const threads = Number(options.threads);
printReport({
  overhead_us: await overhead(Number(options.calls)),
  event_loop: await eventLoop(threads),
  memory: await memory(Number(options.shapes), threads),
});
