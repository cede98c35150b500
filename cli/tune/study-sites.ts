import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { groupsWithin } from '../groups-within.js';
import { bytesPerPosition } from '../site-memory.js';
import { downstreamOf, type GraphPart, partOf } from './graph-part.js';
import { Recording } from './recording.js';
import { SiteBench } from './site-bench.js';
import { formOf, KEPT } from './site-form.js';
import { SiteStudy } from './site-study.js';
import type { TunableSite } from './tunable-model.js';
import { exactForm, type TuningContext } from './tuning-context.js';

/** Recorded values in memory at a time. */
const ALLOWANCE = 1.5 * 2 ** 30;
/** Values of a site that are recorded: query, key, value, output, and what bypasses it. */
const VALUES_PER_SITE = 6;

/** A study of every site, each by itself, the others computing exact attention. */
export function studiesOf(context: TuningContext): SiteStudy[] {
  const exactModel = context.model.variant(context.exact);
  const { main } = new ModelGraph(exactModel);
  // The values of one group of sites are in memory at a time; sites are looked at in their order.
  let current: { readonly group: readonly TunableSite[]; readonly recording: Recording } | null = null;
  return inGroups(context).flatMap(group => {
    const tails = group.map(({ site }) => tailOf(main, site.output.value, context.metric.outputs));
    const names = valuesToRecord(context, group, tails);
    const recording = () => {
      if (current?.group !== group) {
        current = { group, recording: new Recording(context, exactModel, names, context.searched) };
      }
      return current.recording;
    };
    return group.map(
      (site, s) => new SiteStudy(context, new SiteBench(context, site, exactModel, tails[s]!, recording)),
    );
  });
}

function valuesToRecord(
  context: TuningContext,
  group: readonly TunableSite[],
  tails: readonly GraphPart[],
): ReadonlySet<string> {
  const { model, data, metric, mayKeep } = context;
  // All settings of an operator are fed the same.
  const fed = group.flatMap(site =>
    [
      exactForm(context, site),
      ...(mayKeep ? [KEPT] : []),
      ...site.spaces.map(space => formOf(space, {}, data.length)),
    ].flatMap(form => model.sitePart(site, form).inputs),
  );
  return new Set([
    ...metric.outputs,
    ...group.map(({ site }) => site.output.value),
    ...tails.flatMap(({ inputs }) => inputs),
    ...fed,
  ]);
}

/** Everything that a site has an influence on. */
function tailOf(main: ModelGraph['main'], siteOutput: string, outputs: readonly string[]): GraphPart {
  const nodes = downstreamOf(main, siteOutput);
  const computed = new Set([...nodes].flatMap(({ info }) => info.outputs));
  return partOf(
    main,
    nodes,
    outputs.filter(output => computed.has(output)),
  );
}

/** The sites in groups whose recorded values fit the allowance, where they can. */
function inGroups({ model, data, searched }: TuningContext): TunableSite[][] {
  const positions = searched.length * (data.length ?? 1);
  return groupsWithin(
    ALLOWANCE,
    model.sites,
    ({ site }) => VALUES_PER_SITE * positions * bytesPerPosition(site),
  );
}
