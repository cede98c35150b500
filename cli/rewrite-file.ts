import { OPERATORS } from '../custom-ops/index.js';
import { applyRewrite, type Rewrite } from '../rewriter/apply.js';
import { calibrated, needsCalibration } from '../rewriter/calibration.js';
import { findSites } from '../rewriter/find-sites.js';
import { plural } from '../rewriter/format.js';
import { ModelGraph } from '../rewriter/graph/model-graph.js';
import {
  countOperators,
  describeModel,
  describeSite,
  type ModelHeader,
  operatorsAfter,
} from '../rewriter/inspection.js';
import { FileSource } from '../rewriter/onnx/byte-source-file.js';
import { decodeModel } from '../rewriter/onnx/decode.js';
import { withoutDescriptions } from '../rewriter/onnx/descriptions.js';
import { editModel } from '../rewriter/onnx/edit.js';
import { type ModelFile, openModelFile } from '../rewriter/onnx/model-file.js';
import { type ExternalDataMode, type StagedModel, stageModel } from '../rewriter/onnx/save-model.js';
import { type Decision, type DecisionDocument, documentDecision, PLAN_VERSION } from '../rewriter/plan.js';
import type { RewriteReport } from '../rewriter/report.js';
import type { NearMiss, Site } from '../rewriter/site.js';
import { type Validation, worstIsolated } from '../rewriter/validation.js';
import { attentionCosts } from './attention-cost.js';
import type { CalibrationRequest } from './calibration/calibrate-model.js';
import { describeEnvironment } from './environment.js';
import { writeReport } from './report-file.js';
import { runJob } from './runtime/run-job.js';
import { ProgressBar } from './terminal.js';
import type { ValidationRequest } from './validation/validate-models.js';
import { VERSION } from './version.js';

export interface RewriteRequest {
  readonly model: string;
  /** Null for a dry run. */
  readonly output: string | null;
  /** What to do with the sites that were found. */
  readonly decide: (sites: readonly Site[]) => readonly Decision[];
  /** The user's data, for operators that are calibrated; null where there is none. */
  readonly calibration: Pick<CalibrationRequest, 'files' | 'tokenizer' | 'length'> | null;
  readonly externalData: ExternalDataMode;
  /** Whether to leave out what exporters write beside the model. */
  readonly stripMetadata: boolean;
  /** How to validate; null to run no model. */
  readonly validation: Omit<ValidationRequest, 'original' | 'rewritten' | 'label' | 'staged'> | null;
  /** Whether the output stays when it fails validation. */
  readonly keep: boolean;
  /** Report to write, whatever the outcome. */
  readonly reportFile: string | null;
  /** The command line, for the report. */
  readonly command: string;
}

export interface RewriteOutcome {
  readonly report: RewriteReport;
  /** What `rewrite --json` prints; it can be used as a plan. */
  readonly document: RewriteDocument;
}

export interface RewriteDocument {
  readonly version: typeof PLAN_VERSION;
  readonly sites: readonly DecisionDocument[];
  /** The rewritten model, or in a dry run the original; `file` is null when none was written. */
  readonly model: ModelHeader & { readonly original: string };
  readonly validation: Validation | null;
}

/** What a rewrite is going to do to a model. */
interface Draft {
  readonly sites: readonly Site[];
  readonly nearMisses: readonly NearMiss[];
  readonly decisions: readonly Decision[];
  /** Whether an operator is right only once the model is retrained with it: there is nothing to validate yet. */
  readonly needsTraining: boolean;
  readonly rewrite: Rewrite;
  readonly notices: readonly string[];
}

/**
 * Rewrites a model file. The output appears, complete, only when it passes validation or is to be kept; until
 * then it has a temporary name.
 * @throws InputError when the model, the inputs or the output path are bad, or the original does not run
 * @throws CheckFailure when the rewritten model does not run
 */
export async function rewriteFile(request: RewriteRequest): Promise<RewriteOutcome> {
  const input = openModelFile(request.model);
  try {
    return await rewriteOpenFile(input, request);
  } finally {
    input.close();
  }
}

async function rewriteOpenFile(input: ModelFile, request: RewriteRequest): Promise<RewriteOutcome> {
  const draft = await draftRewrite(input, request);
  const { output } = request;
  const staged = output === null ? null : await stage(input, draft, output, request);
  try {
    const validation = staged && (await validateStaged(staged, draft, request));
    const header = staged && describeStaged(input, staged, output!);
    const written = staged !== null && (validation === null || validation.passed || request.keep);
    const sites = draft.decisions.map(decision =>
      documentDecision(decision, validation && worstIsolated(validation, decision.site.id)),
    );
    const before = countOperators(input.model);
    const report: RewriteReport = {
      tool: { name: 'onnx-rewrite', version: VERSION },
      created: new Date().toISOString(),
      command: request.command,
      environment: describeEnvironment(),
      input: describeModel(input.model),
      output: written ? header : null,
      operators: { before, after: operatorsAfter(before, draft.rewrite) },
      sites: draft.sites.map((site, i) => ({ ...describeSite(site, OPERATORS), ...sites[i]! })),
      near_misses: draft.nearMisses,
      notices: [...draft.notices, ...(staged?.notices ?? [])],
      validation,
      costs: attentionCosts(draft.decisions),
      timings: [],
      metrics: [],
    };
    if (request.reportFile !== null) writeReport(report, request.reportFile);
    if (written) staged.commit();
    else staged?.rollback();
    const model = {
      ...(header ?? report.input),
      file: written ? output : null,
      original: input.file,
    };
    return { report, document: { version: PLAN_VERSION, sites, model, validation } };
  } catch (error) {
    staged?.rollback();
    throw error;
  }
}

async function draftRewrite(input: ModelFile, request: RewriteRequest): Promise<Draft> {
  const graph = new ModelGraph(input.model);
  const { sites, nearMisses } = findSites(graph);
  const notices = [...graph.warnings];
  const decisions = await calibrate(request.decide(sites), request, notices);
  const replacements = decisions.flatMap(({ replacement }) => (replacement === null ? [] : [replacement]));
  if (sites.length === 0) notices.push('No attention was found in this model.');
  else if (replacements.length === 0) notices.push('No site was replaced: the output equals the input.');
  const needsTraining = replacements.some(
    ({ site, operator }) => operator.fidelity[site.computation] === 'needs-trained-weights',
  );
  if (needsTraining && request.validation !== null) {
    notices.push('Not validated: the model has to be retrained before it can be compared with the original.');
  }
  return { sites, nearMisses, decisions, needsTraining, rewrite: applyRewrite(graph, replacements), notices };
}

/** Calibrates the operators that need it. */
async function calibrate(
  decisions: readonly Decision[],
  { model, calibration }: RewriteRequest,
  notices: string[],
): Promise<readonly Decision[]> {
  const sites = decisions.flatMap(({ site, replacement }) =>
    replacement !== null && needsCalibration(replacement) ? [site.id] : [],
  );
  if (sites.length === 0) {
    if (calibration !== null)
      notices.push('The data was not used: no operator of this rewrite is calibrated.');
    return decisions;
  }
  // Refused at once where there is nothing to calibrate on.
  if (calibration === null) return calibrated(decisions, new Map(), 'weights');
  const { moments, windows, length } = await runJob('calibrate', { model, sites, ...calibration });
  const tokens = length === null ? '' : ` of ${length} tokens`;
  notices.push(
    `Calibrated on ${plural(windows, 'window', 'windows')}${tokens} from ${calibration.files.join(', ')}.`,
  );
  return calibrated(decisions, moments, 'weights');
}

async function stage(
  input: ModelFile,
  draft: Draft,
  output: string,
  { externalData, stripMetadata }: Pick<RewriteRequest, 'externalData' | 'stripMetadata'>,
): Promise<StagedModel> {
  const bar = new ProgressBar();
  try {
    const stripped = stripMetadata ? withoutDescriptions(input.model) : [];
    const segments = editModel(input.model, [...draft.rewrite.edits, ...stripped]);
    return await stageModel(input, segments, output, {
      externalData,
      onProgress: (written, total) => bar.update(written, total, `writing ${output}`),
    });
  } finally {
    bar.clear();
  }
}

async function validateStaged(
  staged: StagedModel,
  draft: Draft,
  request: RewriteRequest,
): Promise<Validation | null> {
  if (request.validation === null || draft.needsTraining || draft.rewrite.edits.length === 0) return null;
  return runJob('validate', {
    original: request.model,
    rewritten: staged.file,
    label: request.output!,
    staged: true,
    ...request.validation,
  });
}

function describeStaged(input: ModelFile, staged: StagedModel, output: string): ModelHeader {
  const source = new FileSource(staged.file);
  try {
    return describeModel(decodeModel(source, { file: output, sidecars: input.sidecars }));
  } finally {
    source.close();
  }
}
