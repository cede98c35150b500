import assert from 'node:assert/strict';
import { OPERATORS } from '../../custom-ops/index.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { inspect, type SiteDescription } from '../../rewriter/inspection.js';
import { openModelFile } from '../../rewriter/onnx/model-file.js';
import { type ExpectedSite, type Fixture, fixtures } from './fixtures.js';

describe('zoo: what inspect finds in exported models', () => {
  const zoo = fixtures();

  it('covers every fixture and both exporters', () => {
    assert.ok(zoo.length > 150);
    for (const exporter of ['legacy', 'dynamo']) assert.ok(zoo.some(({ name }) => name.includes(exporter)));
  });

  for (const fixture of zoo) {
    it(fixture.name, () => {
      const { sites, near_misses } = inspectFixture(fixture);
      const misses = near_misses.map(({ node, pattern, reason }) => `${pattern} at ${node}: ${reason}`);
      assert.equal(sites.length, fixture.sites.length, `number of sites; near misses: ${misses.join('\n')}`);
      const left = [...sites];
      for (const expected of fixture.sites) {
        const index = left.findIndex(site => belongsTo(site, expected));
        assert.notEqual(
          index,
          -1,
          `no site in ${expected.scope}, but ${sites.map(({ id }) => id).join(', ')}`,
        );
        const [site] = left.splice(index, 1);
        assert.deepEqual(claimed(site!, expected), rounded(expected), site!.reason ?? site!.id);
      }
    });
  }
});

function inspectFixture(fixture: Fixture) {
  const opened = openModelFile(fixture.file);
  try {
    return inspect(new ModelGraph(opened.model), OPERATORS);
  } finally {
    opened.close();
  }
}

function belongsTo({ id, scope }: SiteDescription, expected: ExpectedSite): boolean {
  return id.includes(expected.scope) || scope?.includes(expected.scope) === true;
}

/** The fields of `site` that `expected` claims something about. */
function claimed(site: SiteDescription, expected: ExpectedSite): Partial<ExpectedSite> {
  return rounded({
    scope: expected.scope,
    query_heads: site.query_heads,
    kv_heads: site.kv_heads,
    head_dim: site.head_dim,
    scale: site.scale,
    mask: site.mask,
    causal: site.causal,
    kind: site.kind,
    dtype: site.dtype,
    past: site.past,
    alignment: expected.causal ? site.alignment : expected.alignment,
    replaceable: expected.replaceable === null ? null : site.replaceable,
    empty_row: expected.empty_row === null ? null : site.empty_row,
  });
}

/** Scales to the digits that hold after the exporter's arithmetic in the type of the site. */
function rounded(site: ExpectedSite): ExpectedSite {
  const digits = site.dtype === 'float16' ? 3 : 5;
  return { ...site, scale: site.scale === null ? null : Number(site.scale.toPrecision(digits)) };
}
