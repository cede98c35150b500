import { formatBytes, formatDuration, formatError, plural } from './format.js';
import type { ModelHeader, SiteDescription } from './inspection.js';
import type { DecisionDocument } from './plan.js';
import type { Fact } from './report-page.js';
import type { NearMiss } from './site.js';
import { type Difference, type LengthValidation, type Validation, within } from './validation.js';

/** Everything worth knowing about one rewrite, for people and for tools; `report-*.ts` render it. */
export interface RewriteReport {
  readonly tool: { readonly name: string; readonly version: string };
  /** When the rewrite was done, ISO 8601. */
  readonly created: string;
  readonly command: string;
  readonly environment: Environment;
  readonly input: ModelHeader;
  /** Null where nothing was written. */
  readonly output: ModelHeader | null;
  /** Nodes by operator; `after` is what a dry run would write. */
  readonly operators: {
    readonly before: Readonly<Record<string, number>>;
    readonly after: Readonly<Record<string, number>>;
  };
  readonly sites: readonly (SiteDescription & DecisionDocument)[];
  readonly near_misses: readonly NearMiss[];
  readonly notices: readonly string[];
  /** Null where the models were not run. */
  readonly validation: Validation | null;
  /** Operation counts of replaced attention by length, where they can be told. */
  readonly costs: readonly AttentionCost[];
  /** Repeated, interleaved timings, where they were taken. */
  readonly timings: readonly Timing[];
  /** The model's own metrics before and after, where they were measured. */
  readonly metrics: readonly Metric[];
}

export interface Environment {
  readonly node: string;
  readonly platform: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memory_bytes: number;
}

/** One sentence about a machine. */
export function environmentText({ node, platform, cpu, cores, memory_bytes }: Environment): string {
  return `Node ${node} on ${platform}, ${cpu}, ${plural(cores, 'core', 'cores')}, ${formatBytes(memory_bytes)} of memory.`;
}

/** Multiply-adds of attention alone, one batch row, at one length. */
export interface AttentionCost {
  readonly length: number;
  /** Replaced sites that are counted. */
  readonly sites: number;
  readonly original: number;
  /** The most, where data decides what is computed exactly. */
  readonly rewritten: number;
}

/** Medians over `runs` interleaved runs of both models. */
export interface Timing {
  readonly length: number;
  readonly runs: number;
  readonly original_ms: number;
  readonly rewritten_ms: number;
  /** Peak resident memory of a process that loads the model and runs it once. */
  readonly original_peak_bytes: number | null;
  readonly rewritten_peak_bytes: number | null;
}

export interface Metric {
  readonly name: string;
  readonly original: number;
  readonly rewritten: number;
}

export type Verdict = 'passed' | 'failed' | 'not-validated' | 'not-written';

/** How the rewrite ended. */
export function verdictOf(report: RewriteReport): Verdict {
  if (report.validation !== null) return report.validation.passed ? 'passed' : 'failed';
  return report.output === null ? 'not-written' : 'not-validated';
}

export const VERDICT_TITLES: Readonly<Record<Verdict, string>> = {
  passed: 'Passed: within the error budgets',
  failed: 'Failed: over an error budget',
  'not-validated': 'Written without validation',
  'not-written': 'Dry run: nothing was written or run',
};

/** The few numbers that a reader looks for first. */
export function keyFacts(report: RewriteReport): Fact[] {
  const replaced = report.sites.filter(site => site.decision === 'replaced').length;
  const facts: Fact[] = [
    {
      label: 'Attention sites replaced',
      value: `${replaced} of ${report.sites.length}`,
      detail: plural(report.near_misses.length, 'near miss', 'near misses'),
    },
  ];
  const { validation, timings } = report;
  if (validation !== null) {
    const sites = validation.lengths.flatMap(({ sites }) => sites.map(({ details }) => details.isolated));
    const outputs = validation.lengths.flatMap(({ outputs }) => outputs);
    facts.push(
      {
        label: 'Largest site error',
        value: worst(sites),
        detail: `isolated; budget ${formatError(validation.budgets.max_error)}`,
      },
      {
        label: 'Largest output error',
        value: worst(outputs),
        detail: `budget ${formatError(validation.budgets.max_output_error)}`,
      },
    );
  }
  const timing = timings.at(-1);
  if (timing) {
    facts.push({
      label: `Time at ${timing.length} tokens`,
      value: ratio(timing.original_ms, timing.rewritten_ms),
      detail: `${formatDuration(timing.original_ms)} → ${formatDuration(timing.rewritten_ms)}`,
    });
  }
  return facts;
}

/** `2.1x faster`, `1.3x slower`, or with other words for a decrease and an increase. */
export function ratio(before: number, after: number, less = 'faster', more = 'slower'): string {
  return before >= after
    ? `${(before / after).toFixed(2)}x ${less}`
    : `${(after / before).toFixed(2)}x ${more}`;
}

/** Nodes by operator where their number changed, most changed first. */
export function changedOperators(report: RewriteReport): { type: string; before: number; after: number }[] {
  const { before, after } = report.operators;
  return [...new Set([...Object.keys(before), ...Object.keys(after)])]
    .map(type => ({ type, before: before[type] ?? 0, after: after[type] ?? 0 }))
    .filter(row => row.before !== row.after)
    .sort(
      (a, b) => Math.abs(b.after - b.before) - Math.abs(a.after - a.before) || a.type.localeCompare(b.type),
    );
}

/** Sites that share an operator and all its attributes. */
export interface AttributeGroup {
  readonly sites: readonly string[];
  readonly operator: string;
  readonly attributes: readonly (readonly [name: string, value: string])[];
}

export function attributeGroups(report: RewriteReport): AttributeGroup[] {
  const groups = new Map<string, AttributeGroup & { readonly sites: string[] }>();
  for (const { id, operator, attributes } of report.sites) {
    if (operator === null || attributes === null) continue;
    const key = JSON.stringify([operator, attributes]);
    const group = groups.get(key);
    if (group) group.sites.push(id);
    else {
      const values = Object.entries(attributes).map(
        ([name, value]) => [name, [value].flat().join(', ')] as const,
      );
      groups.set(key, { sites: [id], operator, attributes: values });
    }
  }
  return [...groups.values()];
}

/** `8192 tokens`; the inputs themselves where they have no sequence. */
export function lengthTitle({ length }: LengthValidation): string {
  return length === null ? 'the given inputs' : `${length} tokens`;
}

/** The verdict on one measure against its budget. */
export function verdictOn(
  measured: Difference | null,
  budget: number,
): 'ok' | 'over budget' | 'not measured' {
  if (measured === null) return 'not measured';
  return within(measured, budget) ? 'ok' : 'over budget';
}

/** A measured error, or what stands in its place. */
export function errorText(measured: Difference | null): string {
  if (measured === null) return 'not measured';
  return measured.mismatches > 0
    ? `${measured.mismatches} not finite`
    : formatError(measured.relative_squared_error);
}

function worst(differences: readonly (Difference | null)[]): string {
  const measured = differences.filter(difference => difference !== null);
  const broken = measured.find(({ mismatches }) => mismatches > 0);
  if (broken) return errorText(broken);
  if (measured.length === 0) return 'not measured';
  return formatError(Math.max(...measured.map(difference => difference.relative_squared_error ?? Infinity)));
}
