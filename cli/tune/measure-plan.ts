import { createHash } from 'node:crypto';
import type { ModelSession } from '../runtime/session.js';
import type { Observation } from './forecast.js';
import { formKey } from './site-form.js';
import { type Choices, modelBytes, type TunableModel } from './tunable-model.js';
import type { TuningContext } from './tuning-context.js';
import type { DataWindow } from './tuning-data.js';
import type { ShareOfProgress } from './workload.js';

/**
 * What a plan does to the metric on some windows, all sites together.
 * @param enough told of what was seen so far; windows after it says so are left out
 */
export async function measurePlan(
  context: TuningContext,
  forms: Choices,
  windows: readonly DataWindow[],
  enough: (seen: readonly Observation[]) => boolean,
  progress: ShareOfProgress,
): Promise<Observation[]> {
  const { cache, engine, metric, model, exactRuns } = context;
  const plan = planHash(model, forms);
  const keyOf = (window: DataWindow) => `plan ${plan}: ${window.name}`;
  let session: ModelSession | null = null;
  try {
    const seen: Observation[] = [];
    for (const [w, window] of windows.entries()) {
      progress.step(w, windows.length, `a plan on ${window.name}`);
      const { value, divergence } = await cache.get(keyOf(window), async () => {
        session ??= await engine.open(modelBytes(model.variant(forms)));
        const reference = await exactRuns.outputs(window);
        return metric.measure(window, await engine.run(session, window.feeds, metric.outputs), reference);
      });
      seen.push({ change: value - (await exactRuns.value(window)), divergence });
      if (enough(seen)) break;
    }
    return seen;
  } finally {
    await (session as ModelSession | null)?.release();
  }
}

/** A short name of a plan, for keys. */
export function planHash(model: TunableModel, forms: Choices): string {
  const text = [...model.spelledOut(forms)]
    .map(([id, form]) => `${id}: ${formKey(form)}\n`)
    .sort()
    .join('');
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}
