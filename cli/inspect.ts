import { Command } from 'commander';
import { OPERATORS } from '../custom-ops/index.js';
import { formatBytes, plural } from '../rewriter/format.js';
import { ModelGraph } from '../rewriter/graph/model-graph.js';
import { type Inspection, inspect, maskOf, type SiteDescription } from '../rewriter/inspection.js';
import { openModelFile } from '../rewriter/onnx/model-file.js';
import { describeFailure } from './errors.js';
import { modelFiles } from './model-files.js';
import { type CommonOptions, withCommonOptions } from './options.js';
import { colors, note, print, printJson, table } from './terminal.js';

export function inspectCommand(): Command {
  return withCommonOptions(
    new Command('inspect')
      .description('Show the attention sites of models, what can replace them, and what came close.')
      .argument('<model...>', 'model files, or folders with .onnx files'),
  ).action((paths: string[], options: CommonOptions) => inspectAll(modelFiles(paths), options));
}

/** Inspects every file; one that fails is reported and does not keep the others from being shown. */
function inspectAll(files: readonly string[], options: CommonOptions): void {
  for (const [i, file] of files.entries()) {
    try {
      const inspection = inspectFile(file);
      if (options.json) printJson(inspection);
      else print(`${i > 0 ? '\n' : ''}${renderInspection(inspection)}`);
    } catch (error) {
      if (files.length === 1) throw error;
      const { message, remedy, exitCode } = describeFailure(error);
      note(`error: ${message}${remedy === null ? '' : `\n  ${remedy}`}`);
      process.exitCode = Math.max(exitCode, Number(process.exitCode ?? 0));
    }
  }
}

function inspectFile(file: string): Inspection {
  const opened = openModelFile(file);
  try {
    const graph = new ModelGraph(opened.model);
    for (const warning of graph.warnings) note(`warning: ${file}: ${warning}`);
    return inspect(graph, OPERATORS);
  } finally {
    opened.close();
  }
}

function renderInspection({ model, sites, near_misses }: Inspection): string {
  const opsets = Object.entries(model.opsets).map(([domain, version]) => `${domain} ${version}`);
  const external =
    model.external_data.length === 0 ? '' : `, external data in ${model.external_data.join(', ')}`;
  const replaceable = sites.filter(site => site.replaceable).length;
  return [
    colors.bold(model.file ?? 'model'),
    `IR ${model.ir_version}, ${opsets.join(', ')}, ${model.producer || 'unknown producer'}`,
    `${model.nodes} nodes, ${formatBytes(model.initializers_bytes)} of initializers${external}`,
    '',
    [
      `${plural(sites.length, 'attention site', 'attention sites')}${sites.length === 0 ? '' : `, ${replaceable} replaceable`}`,
      plural(near_misses.length, 'near miss', 'near misses'),
    ].join('; '),
    ...(sites.length === 0 ? [] : ['', renderSites(sites)]),
    ...(near_misses.length === 0
      ? []
      : [
          '',
          table(
            [{ title: 'near miss at' }, { title: 'nearest pattern' }, { title: 'reason' }],
            near_misses.map(({ node, pattern, reason }) => [node, pattern, reason]),
          ),
        ]),
  ].join('\n');
}

function renderSites(sites: readonly SiteDescription[]): string {
  return table(
    [
      { title: 'site' },
      { title: 'pattern' },
      { title: 'heads' },
      { title: 'scale', align: 'right' },
      { title: 'kind' },
      { title: 'mask' },
      { title: 'replaceable by' },
    ],
    sites.map(site => [
      site.id,
      site.pattern,
      headsOf(site),
      site.scale === null ? '?' : String(Number(site.scale.toPrecision(4))),
      site.causal ? `${site.kind}, causal` : site.kind,
      maskOf(site),
      site.replaceable ? colors.green(site.operators.join(', ')) : colors.yellow(`kept: ${site.reason}`),
    ]),
  );
}

/** Heads and their size; what has none is told by its parameters. */
function headsOf({ query_heads, kv_heads, head_dim, parameters }: SiteDescription): string {
  const given = Object.entries(parameters).map(([name, value]) => `${name} ${value}`);
  if (query_heads === null && given.length > 0) return given.join(', ');
  return `${query_heads ?? '?'}${kv_heads === query_heads ? '' : `/${kv_heads ?? '?'}`} x ${head_dim ?? '?'}`;
}
