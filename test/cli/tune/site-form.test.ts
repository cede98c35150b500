import assert from 'node:assert/strict';
import { formKey, formOf, KEPT, type SiteForm, spelledOut } from '../../../cli/tune/site-form.js';
import type { TunableSite } from '../../../cli/tune/tunable-model.js';
import type { Settings } from '../../../custom-ops/attributes.js';
import { multiLevelTuningSpace } from '../../../custom-ops/multi-level-attention/tuning-space.js';
import { multipoleTuningSpace } from '../../../custom-ops/multipole-attention/tuning-space.js';
import type { TuningSpace } from '../../../custom-ops/tuning-space.js';
import { tunableSite } from './tunable-site.js';

const LENGTH = 8192;
const HEADS = 4;
const FROM_SITE = ['scale', 'causal', 'causal_offset'];

/** The same operator in a release with other defaults. */
function withOtherDefaults(space: TuningSpace, defaults: Settings): TuningSpace {
  const { operator } = space;
  const resolve: typeof operator.resolve = (site, settings) =>
    operator.resolve(site, { ...defaults, ...settings });
  return { ...space, operator: { ...operator, resolve } };
}

describe('a form of a site, spelled out', () => {
  const cases = [
    { space: multipoleTuningSpace, causal: true, others: { segment: 512, iterations: 1 } },
    { space: multipoleTuningSpace, causal: false, others: { key_grouping: 'kmeans', group: 32 } },
    { space: multiLevelTuningSpace, causal: true, others: { block: 64 } },
  ] as const;

  for (const { space, causal, others } of cases) {
    const { operator } = space;
    const { site } = tunableSite('site', HEADS, causal);
    const today: TunableSite = { site, spaces: [space] };
    const later: TunableSite = { site, spaces: [withOtherDefaults(space, others)] };
    const forms = [...space.candidates(site), {}].map(settings => formOf(space, settings, LENGTH));
    const resolved = ({ spaces }: TunableSite, { attributes }: SiteForm) =>
      spaces[0]!.operator.resolve(site, attributes);
    const name = `${operator.id}, ${causal ? 'causal' : 'not causal'}`;

    it(`has all settings, and none that follow from the site (${name})`, () => {
      const settings = operator.attributes.map(attribute => attribute.name);
      for (const form of forms) {
        assert.deepEqual(
          Object.keys(spelledOut(today, form).attributes).sort(),
          settings.filter(setting => !FROM_SITE.includes(setting)).sort(),
        );
      }
    });

    it(`means the same, whatever defaults are (${name})`, () => {
      for (const form of forms) {
        const said = spelledOut(today, form);
        assert.deepEqual(resolved(today, said), resolved(today, form));
        assert.deepEqual(resolved(later, said), resolved(today, form));
      }
    });

    it(`has another key where a default that it takes is another (${name})`, () => {
      const form = formOf(space, {}, LENGTH);
      assert.notEqual(formKey(spelledOut(today, form)), formKey(spelledOut(later, form)));
    });
  }

  it('repeats what is said against the site', () => {
    const form = formOf(multipoleTuningSpace, { scale: 0.5 }, LENGTH);
    assert.equal(spelledOut(tunableSite('site', HEADS), form).attributes.scale, 0.5);
  });

  it('leaves what is kept as it is', () => {
    assert.equal(spelledOut(tunableSite('site', HEADS), KEPT), KEPT);
  });
});
