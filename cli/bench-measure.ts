import { InputError } from '../rewriter/errors.js';
import type { RuntimeDescription } from '../rewriter/validation.js';
import type { BenchRequest, BenchResult, Contender, ContenderTiming } from './bench-models.js';
import {
  type BenchReport,
  type BenchRun,
  bySetting,
  bySubject,
  crossoverOf,
  scalingOf,
} from './bench-report.js';
import type { InputChoice } from './data/input-source.js';
import { commandLine, describeEnvironment } from './environment.js';
import { PROVIDERS, type Provider } from './runtime/providers.js';
import { JobDied, runJob } from './runtime/run-job.js';
import { median } from './statistics.js';
import { VERSION } from './version.js';

/** What to measure: every contender at every length, with every provider and number of threads. */
export interface BenchPlan extends InputChoice {
  readonly contenders: readonly Contender[];
  readonly providers: readonly Provider[];
  readonly threads: readonly (number | null)[];
  readonly lengths: readonly (number | null)[];
  readonly batch: number;
  readonly runs: number;
  /** Whether to measure peak memory. */
  readonly memory: boolean;
  /** The longest that one run may take. */
  readonly maxSeconds: number | null;
}

/** A contender at one length. */
interface Outcome {
  readonly length: number | null;
  readonly timing: ContenderTiming | null;
  readonly memory: Pick<BenchResult, 'peak_bytes' | 'loaded_bytes'> | null;
  readonly failure: string | null;
}

type Setting = Pick<BenchRequest, 'provider' | 'threads'>;

/**
 * Measures by the plan. Each length has a process of its own, in which the models take turns; where a model brings
 * it down or takes too long, the others go on without it, and it is left out of longer lengths.
 * @throws InputError when a model or the inputs are bad, or nothing runs at all
 */
export async function measure(plan: BenchPlan): Promise<BenchReport> {
  const notes: string[] = [];
  const runs: BenchRun[] = [];
  const lengths = [...new Set(plan.lengths)].sort((a, b) => (a ?? 0) - (b ?? 0));
  for (const provider of plan.providers) {
    for (const threads of new Set(plan.threads)) {
      runs.push(...(await measureSetting(plan, lengths, { provider, threads }, notes)));
    }
  }
  const failed = runs.find(({ failure }) => failure !== null);
  if (runs.every(({ failure }) => failure !== null)) {
    throw new InputError(`no model runs at any length; ${failed!.model}: ${failed!.failure}`, {
      remedy: 'Choose other lengths or inputs; `run` shows what a single model does.',
    });
  }
  return {
    tool: { name: 'onnx-rewrite', version: VERSION },
    created: new Date().toISOString(),
    command: commandLine(),
    machine: describeEnvironment(),
    inputs: plan.inputs ?? 'random, of the requested length',
    runs,
    crossover: bySetting(runs).flatMap(([base, ...others]) =>
      others
        .filter(other => other.some(({ failure }) => failure === null))
        .map(other => crossoverOf(base!, other)),
    ),
    scaling: bySubject(runs)
      .map(scalingOf)
      .filter(({ time, memory }) => time !== null || memory !== null),
    notes,
  };
}

async function measureSetting(
  plan: BenchPlan,
  lengths: readonly (number | null)[],
  setting: Setting,
  notes: string[],
): Promise<BenchRun[]> {
  const outcomes = new Map<Contender, Outcome[]>(plan.contenders.map(contender => [contender, []]));
  /** Why contenders are not tried at longer lengths. */
  const givenUp = new Map<Contender, string>();
  for (const length of lengths) {
    const at = new LengthMeasurement(plan, setting, length);
    const trying = plan.contenders.filter(contender => !givenUp.has(contender));
    for (const [contender, outcome] of await at.measure(trying)) {
      outcomes.get(contender)!.push(outcome);
    }
    for (const [contender, why] of givenUp) {
      outcomes.get(contender)!.push({ length, timing: null, memory: null, failure: why });
    }
    for (const [contender, why] of at.deaths) givenUp.set(contender, `not tried: ${why} at ${length} tokens`);
    for (const contender of at.apart) {
      notes.push(
        `${contender.model} at ${length} tokens was timed apart: the models together ended their process.`,
      );
    }
  }
  return [...outcomes].flatMap(([contender, results]) => {
    const runtime = results.find(({ timing }) => timing !== null)?.timing?.runtime ?? null;
    return results.map(outcome => describeRun(plan, setting, contender, runtime, outcome));
  });
}

/** All contenders at one length. */
class LengthMeasurement {
  /** Contenders that bring down their process or take too long even alone, with what happened. */
  readonly deaths = new Map<Contender, string>();
  /** Contenders that run alone only. */
  readonly apart: Contender[] = [];

  constructor(
    private readonly plan: BenchPlan,
    private readonly setting: Setting,
    private readonly length: number | null,
  ) {}

  async measure(contenders: readonly Contender[]): Promise<Map<Contender, Outcome>> {
    const timings = await this.timeTogether(contenders);
    const outcomes = new Map<Contender, Outcome>();
    for (const contender of contenders) {
      const timed = timings.get(contender) ?? null;
      const failure = timed === null ? this.deaths.get(contender)! : timed.timing.failure;
      const memory = failure === null && this.plan.memory ? await this.memoryOf(contender) : null;
      const length = timed === null ? this.length : timed.length;
      outcomes.set(contender, { length, timing: timed?.timing ?? null, memory, failure });
    }
    return outcomes;
  }

  /** Times contenders in turns. One that ends their process is tried again alone, unless it was too slow. */
  private async timeTogether(
    contenders: readonly Contender[],
  ): Promise<Map<Contender, { readonly length: number | null; readonly timing: ContenderTiming }>> {
    if (contenders.length === 0) return new Map();
    try {
      const { timings, length } = await this.job(contenders, this.plan.runs);
      return new Map(contenders.map((contender, n) => [contender, { length, timing: timings[n]! }]));
    } catch (error) {
      if (!(error instanceof JobDied)) throw error;
      const culprit = contenders[error.step % contenders.length]!;
      if (contenders.length === 1 || error.end === 'too slow') this.deaths.set(culprit, error.message);
      const others = await this.timeTogether(contenders.filter(contender => contender !== culprit));
      if (this.deaths.has(culprit)) return others;
      const alone = await this.timeTogether([culprit]);
      if (alone.size > 0) this.apart.push(culprit);
      return new Map([...others, ...alone]);
    }
  }

  private async memoryOf(contender: Contender): Promise<Outcome['memory']> {
    try {
      return await this.job([contender], 0);
    } catch (error) {
      if (error instanceof JobDied) return null;
      throw error;
    }
  }

  private job(contenders: readonly Contender[], runs: number): Promise<BenchResult> {
    const { inputs, tokenizer, batch, maxSeconds } = this.plan;
    const request = { contenders, ...this.setting, inputs, tokenizer, length: this.length, batch, runs };
    return runJob('bench', request, {
      secondsFor: step => (step < contenders.length ? null : maxSeconds),
    });
  }
}

function describeRun(
  { batch }: BenchPlan,
  { provider, threads }: Setting,
  { model, stock }: Contender,
  runtime: RuntimeDescription | null,
  { length, timing, memory, failure }: Outcome,
): BenchRun {
  const ms = failure === null ? timing!.ms : [];
  const middle = ms.length === 0 ? null : median(ms);
  return {
    model,
    provider: PROVIDERS[provider],
    threads,
    stock,
    runtime,
    length,
    batch,
    median_ms: middle,
    min_ms: middle === null ? null : Math.min(...ms),
    max_ms: middle === null ? null : Math.max(...ms),
    ms,
    tokens_per_second: middle === null || length === null ? null : (1000 * length * batch) / middle,
    peak_bytes: memory?.peak_bytes ?? null,
    loaded_bytes: memory?.loaded_bytes ?? null,
    failure,
  };
}
