import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import { downstreamOf, type GraphPart, partOf } from './graph-part.js';
import { Recording } from './recording.js';
import type { ShareOfProgress } from './share-of-progress.js';
import { SiteBench, type SiteMeasurement } from './site-bench.js';
import type { TunableSite } from './tunable-model.js';
import type { TuningContext } from './tuning-context.js';

/** Part of the time that goes to timing the forms of a site. */
const SCREENING = 0.35;
/** Recorded values in memory at a time. */
const ALLOWANCE = 1.5 * 2 ** 30;
/** Size of one value, batch row and position where the graph does not tell heads or head size. */
const ASSUMED_WIDTH = 1024;
/** Values of a site that are recorded: query, key, value, output, and what bypasses it. */
const VALUES_PER_SITE = 6;
const FLOAT_BYTES = 4;

/** Measures every site by itself, the others computing exact attention. */
export async function measureSites(
  context: TuningContext,
  progress: ShareOfProgress,
): Promise<SiteMeasurement[]> {
  const { sites } = context.model;
  const exactModel = context.model.variant(context.exact);
  const measured: SiteMeasurement[] = [];
  for (const group of inGroups(context)) {
    const share = progress.part(
      measured.length / sites.length,
      (measured.length + group.length) / sites.length,
    );
    const benches = benchesOf(context, exactModel, group, name => share.step(0, 1, `recording ${name}`));
    const [screening, weighing] = [share.part(0, SCREENING), share.part(SCREENING, 1)];
    for (const [b, bench] of benches.entries()) await bench.screen(partOfSite(screening, b, benches.length));
    for (const [b, bench] of benches.entries()) {
      measured.push(await bench.measure(partOfSite(weighing, b, benches.length)));
    }
  }
  return measured;
}

function partOfSite(share: ShareOfProgress, site: number, sites: number): ShareOfProgress {
  return share.part(site / sites, (site + 1) / sites);
}

function benchesOf(
  context: TuningContext,
  exactModel: ModelInfo,
  group: readonly TunableSite[],
  onWindow: (name: string) => void,
): SiteBench[] {
  const { main } = new ModelGraph(exactModel);
  const tails = group.map(({ site }) => tailOf(main, site.output.value, context.metric.outputs));
  const names = new Set<string>(context.metric.kind === 'error' ? context.metric.outputs : []);
  for (const [s, site] of group.entries()) {
    const tail = tails[s]!;
    const bypassing = context.metric.outputs.filter(output => !tail.outputs.includes(output));
    const fed = SiteBench.forms(context, site).flatMap(form => context.model.sitePart(site, form).inputs);
    for (const name of [site.site.output.value, ...tail.inputs, ...bypassing, ...fed]) names.add(name);
  }
  const recording = new Recording(context, exactModel, names, context.data.calibration, onWindow);
  return group.map((site, s) => new SiteBench(context, site, exactModel, tails[s]!, recording));
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

/** Splits the sites so that the recorded values of one group fit the allowance, where they can. */
function inGroups({ model, data }: TuningContext): TunableSite[][] {
  const { calibration, length } = data;
  const groups: TunableSite[][] = [];
  let used = Number.POSITIVE_INFINITY;
  for (const site of model.sites) {
    const { queryHeads, headDim } = site.site;
    const width = queryHeads && headDim ? queryHeads * headDim : ASSUMED_WIDTH;
    const bytes = calibration.length * VALUES_PER_SITE * width * (length ?? 1) * FLOAT_BYTES;
    used += bytes;
    if (used > ALLOWANCE) {
      groups.push([]);
      used = bytes;
    }
    groups.at(-1)!.push(site);
  }
  return groups;
}
