import { createHash } from 'node:crypto';
import { type Change, changeOf } from './change.js';
import { formKey, type SiteForm } from './site-form.js';
import { type Choices, modelBytes } from './tunable-model.js';
import type { TuningContext } from './tuning-context.js';
import type { DataWindow } from './tuning-data.js';

/** What a plan does to the metric, all sites together. */
export async function measurePlan(
  context: TuningContext,
  forms: Choices,
  windows: readonly DataWindow[],
  onWindow: (name: string) => void,
): Promise<Change> {
  const { cache, engine, metric, model, baseline } = context;
  const plan = planHash(forms);
  const keyOf = (window: DataWindow) => `plan ${plan}: ${window.name}`;
  const missing = windows.filter(window => !cache.has(keyOf(window)));
  if (missing.length > 0) {
    const exact =
      metric.kind === 'error' ? await engine.open(modelBytes(model.variant(context.exact))) : null;
    try {
      await engine.with(modelBytes(model.variant(forms)), async session => {
        for (const window of missing) {
          onWindow(window.name);
          await cache.get(keyOf(window), async () => {
            const outputs = await engine.run(session, window.feeds, metric.outputs);
            const reference = exact && (await engine.run(exact, window.feeds, metric.outputs));
            return metric.measure(window, outputs, reference ?? outputs);
          });
        }
      });
    } finally {
      await exact?.release();
    }
  }
  return changeOf(
    metric.kind,
    windows.map(window => baseline.get(window)!),
    windows.map(window => cache.stored<number>(keyOf(window))),
  );
}

/** A short name of a plan, for keys. */
export function planHash(forms: ReadonlyMap<string, SiteForm>): string {
  const text = [...forms]
    .map(([id, form]) => `${id}: ${formKey(form)}\n`)
    .sort()
    .join('');
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}
