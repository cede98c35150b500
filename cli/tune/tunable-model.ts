import { dirname } from 'node:path';
import type { HeadMoments } from '../../custom-ops/head-rotation.js';
import { OPERATORS } from '../../custom-ops/index.js';
import { acceptance } from '../../custom-ops/operator.js';
import type { TuningSpace } from '../../custom-ops/tuning-space.js';
import { applyRewrite } from '../../rewriter/apply.js';
import { calibrated } from '../../rewriter/calibration.js';
import { findSites } from '../../rewriter/find-sites.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { MemorySource } from '../../rewriter/onnx/byte-source.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { editModel, type ModelEdit } from '../../rewriter/onnx/edit.js';
import type { ModelFile } from '../../rewriter/onnx/model-file.js';
import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import { writeToMemory } from '../../rewriter/onnx/write.js';
import { decideByPlan, PLAN_VERSION } from '../../rewriter/plan.js';
import type { AttentionSite } from '../../rewriter/site.js';
import type { TensorValue } from '../data/tensor.js';
import { findReplacements } from '../validation/replacement.js';
import { sliceModel } from '../validation/slice-model.js';
import { partOf } from './graph-part.js';
import { formKey, formOf, KEPT, type SiteForm, spelledOut } from './site-form.js';

/** A site that may be computed otherwise. */
export interface TunableSite {
  readonly site: AttentionSite;
  /** The operators that accept it. */
  readonly spaces: readonly TuningSpace[];
}

/** A form of a site in every site that has one; sites left out are kept. */
export type Choices = ReadonlyMap<string, SiteForm>;

/** A part of a model that computes one site, before it is known what it is fed. */
export interface SitePart {
  /** Values that it is fed. */
  readonly inputs: readonly string[];
  /** The bytes of a model that computes the site alone, from values of these types. */
  bytes(inputs: ReadonlyMap<string, TensorValue>): Uint8Array;
}

/** A model whose attention is to be tuned. */
export class TunableModel {
  readonly sites: readonly TunableSite[];
  /** Attention that stays as it is, and why. */
  readonly skipped: readonly { readonly id: string; readonly reason: string }[];
  /** Folder of the model's external data. */
  readonly folder: string;
  private readonly graph: ModelGraph;
  private readonly all: ReturnType<typeof findSites>['sites'];
  private readonly parts = new Map<string, SitePart>();
  private moments: ReadonlyMap<string, HeadMoments> = new Map();

  /** @param selects ids of sites to tune */
  constructor(
    readonly file: ModelFile,
    spaces: readonly TuningSpace[],
    selects: (id: string) => boolean,
  ) {
    this.folder = dirname(file.file);
    this.graph = new ModelGraph(file.model);
    this.all = findSites(this.graph).sites;
    const sites: TunableSite[] = [];
    const skipped: { id: string; reason: string }[] = [];
    for (const site of this.all) {
      const outcome = this.examine(site, spaces, selects);
      if (typeof outcome === 'string') skipped.push({ id: site.id, reason: outcome });
      else sites.push(outcome);
    }
    this.sites = sites;
    this.skipped = skipped;
  }

  /** The sites that have to be calibrated before there are variants of all their forms. */
  get toCalibrate(): readonly AttentionSite[] {
    return this.sites
      .filter(({ spaces }) => spaces.some(({ operator }) => operator.rotationFor !== undefined))
      .map(({ site }) => site);
  }

  /** @param moments of queries and keys, by id of the site */
  calibrate(moments: ReadonlyMap<string, HeadMoments>): void {
    this.moments = moments;
  }

  /** Exact attention by the operators that have it; the other sites are kept. */
  exactForms(length: number | null): Choices {
    return new Map(
      this.sites.map(({ site, spaces }): [string, SiteForm] => {
        const space = spaces.find(({ exact }) => exact !== null);
        return [site.id, space === undefined ? KEPT : formOf(space, space.exact!, length)];
      }),
    );
  }

  /** The same forms of all sites to tune, with all their settings. */
  spelledOut(choices: Choices): Choices {
    return new Map(this.sites.map(one => [one.site.id, spelledOut(one, choices.get(one.site.id) ?? KEPT)]));
  }

  /** The model with its sites computed as chosen. */
  variant(choices: Choices): ModelInfo {
    return this.edited(this.edits(choices));
  }

  /** One site by itself, in one form. */
  sitePart({ site }: TunableSite, form: SiteForm): SitePart {
    const key = `${site.id} ${formKey(form)}`;
    const part = this.parts.get(key) ?? this.makeSitePart(site, form);
    this.parts.set(key, part);
    return part;
  }

  private makeSitePart(site: AttentionSite, form: SiteForm): SitePart {
    const output = site.output.value;
    if (form.operator === null) {
      const { main } = this.graph;
      const part = partOf(main, site.nodes, [output]);
      return { inputs: part.inputs, bytes: inputs => sliceModel(this.file.model, part, inputs) };
    }
    const model = this.withoutTheRest(this.edits(new Map([[site.id, form]])));
    const replacement = findReplacements(this.file.model, model).find(found => found.output === output)!;
    const slice = { ...replacement, outputs: [output] };
    return { inputs: replacement.inputs, bytes: inputs => sliceModel(model, slice, inputs) };
  }

  private edits(choices: Choices): readonly ModelEdit[] {
    const plan = {
      version: PLAN_VERSION,
      sites: [...choices].map(([id, form]) => ({ id, ...form })),
    } as const;
    // Weights are left alone: what computes query and key is no part of a site that is measured by itself.
    const decisions = calibrated(decideByPlan(this.all, plan, OPERATORS, null), this.moments, 'values');
    const replacements = decisions.flatMap(({ replacement }) => (replacement === null ? [] : [replacement]));
    return applyRewrite(this.graph, replacements).edits;
  }

  private edited(edits: readonly ModelEdit[]): ModelInfo {
    const { file, model, sidecars } = this.file;
    const bytes = writeToMemory(model.source, editModel(model, edits));
    return decodeModel(new MemorySource(bytes), { file, sidecars });
  }

  /** What the edits bring into the model, alone: writing and reading all of it takes long, hundreds of times. */
  private withoutTheRest(edits: readonly ModelEdit[]): ModelInfo {
    const { graph } = this.file.model;
    const removed = new Set<unknown>(edits.map(edit => (edit.kind === 'remove' ? edit.item : null)));
    const added = edits.flatMap(edit => (edit.kind === 'insert-nodes' ? edit.nodes : []));
    const read = new Set(added.flatMap(({ inputs }) => inputs));
    const rest = [
      ...graph.nodes,
      ...graph.initializers.filter(({ name }) => !read.has(name)),
      ...graph.sparseInitializers,
      ...graph.inputs,
      ...graph.outputs,
      ...graph.valueInfos,
    ].filter(item => !removed.has(item));
    return this.edited([...edits, ...rest.map(item => ({ kind: 'remove', from: graph, item }) as const)]);
  }

  private examine(
    site: (typeof this.all)[number],
    spaces: readonly TuningSpace[],
    selects: (id: string) => boolean,
  ): TunableSite | string {
    if (!isSoftmaxAttention(site)) return 'it is no softmax attention';
    if (!selects(site.id)) return 'not selected';
    if (!site.replaceable) return site.reason ?? 'not replaceable';
    if (site.nodes.some(({ graph }) => graph !== this.graph.main)) {
      return 'inside a subgraph or function, where it cannot be measured by itself';
    }
    const verdicts = spaces.map(space => ({ space, verdict: acceptance(space.operator, site) }));
    const accepting = verdicts.filter(({ verdict }) => verdict.ok).map(({ space }) => space);
    if (accepting.length > 0) return { site, spaces: accepting };
    return verdicts.map(({ verdict }) => (verdict.ok ? '' : verdict.reason)).join('; ');
  }
}

function isSoftmaxAttention(site: object): site is AttentionSite {
  return 'query' in site;
}

/** All bytes of a model file. */
export function modelBytes({ source }: ModelInfo): Uint8Array {
  return source.bytes(0, source.length);
}
