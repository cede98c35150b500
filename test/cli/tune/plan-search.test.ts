import assert from 'node:assert/strict';
import { PlanSearch } from '../../../cli/tune/plan-search.js';
import { formsIn, type SiteEstimate } from '../../../cli/tune/search.js';
import { formKey, type SiteForm } from '../../../cli/tune/site-form.js';
import type { SiteStudy } from '../../../cli/tune/site-study.js';
import { ShareOfProgress } from '../../../cli/tune/workload.js';

const QUIET = new ShareOfProgress(() => {});

function estimate(ms: number, exact = false): SiteEstimate {
  const form = { operator: 'some-operator', attributes: { ms } };
  return { form, ms, cost: exact ? 0 : 1, exact };
}

/** A site with approximations that take these times, of which some are measured; the others really take `actual`. */
function site(foretold: readonly number[], measured: readonly number[], actual = (ms: number) => ms) {
  const exact = estimate(100, true);
  const verified = new Map(
    [exact, ...measured.map(ms => estimate(ms))].map(one => [formKey(one.form), one.ms]),
  );
  const asked: number[] = [];
  const study = {
    id: 'site',
    exact: () => exact,
    approximations: () =>
      foretold.map(ms => ({ ...estimate(ms), ms: verified.get(formKey(estimate(ms).form)) ?? ms })),
    isVerified: (form: SiteForm) => verified.has(formKey(form)),
    mayExplore: () => false,
    verify: async (form: SiteForm) => {
      const ms = form.attributes.ms as number;
      asked.push(ms);
      verified.set(formKey(form), actual(ms));
    },
  };
  return { study: study as unknown as SiteStudy, asked };
}

async function fastest({ study }: ReturnType<typeof site>): Promise<[attribute: unknown, ms: number]> {
  const plan = await new PlanSearch([study]).fastestWithin(1, QUIET);
  return [formsIn(plan).get('site')!.attributes.ms, plan.ms];
}

describe('the search for plans while forms are measured', () => {
  it('measures what looks best until it is', async () => {
    const one = site([20, 30, 40], [50], ms => (ms === 20 ? 60 : ms));
    assert.deepEqual(await fastest(one), [30, 30]);
    assert.deepEqual(one.asked, [20, 30]);
  });

  it('does not measure what promises next to nothing', async () => {
    const one = site([49.5, 50], [50]);
    assert.deepEqual(await fastest(one), [50, 50]);
    assert.deepEqual(one.asked, []);
  });

  it('takes what is measured when what looks best never is', async () => {
    const many = Array.from({ length: 20 }, (_, i) => 10 + i);
    const one = site([...many, 70], [70], () => 90);
    assert.deepEqual(await fastest(one), [70, 70]);
    assert.ok(one.asked.length < many.length);
  });
});
