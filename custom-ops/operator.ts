import type { DataType, FunctionSpec } from '../rewriter/onnx/spec.js';
import { type Computation, isAttention, type Site } from '../rewriter/site.js';
import type { HeadMoments, HeadRotation } from './head-rotation.js';

/** Operator domain of every custom operator. */
export const DOMAIN = 'ai.onnxrewrite';
/** Version of that domain. */
export const DOMAIN_VERSION = 1;

/** Name of the output that gives the log-sum-exp of each row's logits [B,H,N]. */
export const LOG_SUM_EXP = 'lse';

/**
 * What a replacement preserves (operator specification, section 5): `exact` equals the original up to
 * rounding; `approximates-softmax` approximates pretrained softmax attention; `needs-trained-weights` is only
 * right in a model trained with it.
 */
export type Fidelity = 'exact' | 'approximates-softmax' | 'needs-trained-weights';

export type AttributeValue = number | string | readonly number[];

/** One attribute of an operator: its name on the node, its ONNX type, and what the user may set. */
export interface AttributeDefinition {
  readonly name: string;
  readonly type: 'int' | 'float' | 'string' | 'ints' | 'floats';
  /** One sentence for `--help` and the report. */
  readonly description: string;
  /** Allowed strings. */
  readonly oneOf?: readonly string[];
  /** Inclusive bounds of a number, or of each one. */
  readonly least?: number;
  readonly most?: number;
  /** Whether it follows from what is replaced, not from a default of the operator, where settings do not say it. */
  readonly fromSite?: boolean;
}

/** Complete attributes of one node, every name of the definition present. */
export type Attributes = Readonly<Record<string, AttributeValue>>;

/** Dense float32 tensor of the references, row-major. */
export interface Tensor {
  readonly dims: readonly number[];
  readonly data: Float32Array;
}

/** What a function body has to fit. */
export interface BodyContext {
  /**
   * Version of the default operator set of the model: ONNX Runtime expands bodies in place, where their nodes
   * are read by the model's operator sets, whatever the function imports.
   */
  readonly opset: number;
  /** Of query, key, value and output. Bodies that fit every type, by CastLike (opset 15), need not use it. */
  readonly elementType: DataType;
}

export type Acceptance = { readonly ok: true } | { readonly ok: false; readonly reason: string };

/** Acceptance by the operator `id`, unless there is a reason against it. */
export function acceptedUnless(id: string, reason: string | null): Acceptance {
  return reason === null ? { ok: true } : { ok: false, reason: `${id}: ${reason}` };
}

/**
 * A custom operator, independent of where attention was found. The function body is the operator's portable
 * form: standard ONNX nodes that compute what `reference.ts` computes.
 */
export interface OperatorDefinition {
  /** Name on the command line: `multipole-attention`. */
  readonly id: string;
  /** Operator type in the graph: `MultipoleAttention`. */
  readonly opType: string;
  readonly summary: string;
  /**
   * What the operator preserves, by what a site computes: it can stand in for these computations only. An
   * operator that computes what the site does is `exact`; where several are exact, the first of the index is
   * the default.
   */
  readonly fidelity: Readonly<Partial<Record<Computation, Fidelity>>>;
  /**
   * How query, key, value and output are laid out when the operator takes the place of softmax attention:
   * 'BN(HD)' has the channels of all heads side by side. The operands of a fusion bring their own moves.
   */
  readonly layout: 'BHND' | 'BN(HD)';
  readonly inputs: readonly { readonly name: string; readonly optional: boolean }[];
  readonly outputs: readonly { readonly name: string; readonly optional: boolean }[];
  readonly attributes: readonly AttributeDefinition[];
  /** Named sets of attribute overrides; `default` is present. */
  readonly presets: Readonly<Record<string, Attributes>>;
  /** Shortest key length at which the operator pays (measured); shorter sequences stay exact at run time. */
  readonly defaultMinLength: number;
  /** Whether the operator can stand in for this site, which `fidelity` has a word for; else the reason. */
  accepts(site: Site): Acceptance;
  /**
   * All attributes of the node that replaces `site`.
   * @throws InputError for an unknown name, a wrong type or a value out of range.
   */
  resolve(site: Site, settings: Readonly<Record<string, AttributeValue>>): Attributes;
  /**
   * For an operator that treats the dimensions of a head differently, and so approximates softmax attention only
   * where its query and key [B,H,N,D] are rotated first: the rotation, from what the user's data makes of query
   * and key. Left out by operators that need no calibration.
   */
  readonly rotationFor?: (moments: HeadMoments) => HeadRotation;
  /** Oldest version of the default operator set that has what the function body needs. */
  readonly oldestOpset: number;
  /**
   * The body for one attribute set.
   * @param connected names of the inputs, and of the optional outputs, that the node connects
   */
  functionBody(attributes: Attributes, connected: readonly string[], model: BodyContext): FunctionSpec;
}

/** Names of the computations in sentences. */
const COMPUTATIONS: Readonly<Record<Computation, string>> = {
  softmax: 'softmax attention',
  elementwise: 'element-wise attention',
  'multi-level': 'multi-level attention',
  bilinear: 'bilinear attention',
  'structured-matmul': 'a structured matrix product',
};

/**
 * Whether `operator` can stand in for `site` in the model that holds it; a refusal gives the reason.
 * @param retrained whether the user will retrain the model, as `needs-trained-weights` takes
 */
export function acceptance(operator: OperatorDefinition, site: Site, retrained = false): Acceptance {
  const refuse = (reason: string): Acceptance => ({ ok: false, reason });
  const fidelity = operator.fidelity[site.computation];
  if (fidelity === undefined) {
    return refuse(`${operator.id} cannot stand in for ${COMPUTATIONS[site.computation]}`);
  }
  if (fidelity === 'needs-trained-weights' && !retrained) {
    return refuse(
      `${operator.id} is right only in a model trained with it, not with ` +
        `${COMPUTATIONS[site.computation]}; state with --retrain that the model will be retrained`,
    );
  }
  const opset = site.nodes[0]?.graph.opsets.get('');
  if (opset !== undefined && opset < operator.oldestOpset) {
    return refuse(
      `${operator.id} needs opset ${operator.oldestOpset} or newer, and the model has ${opset}: export it again`,
    );
  }
  if (isAttention(site) && site.sink !== null && !operator.outputs.some(({ name }) => name === LOG_SUM_EXP)) {
    return refuse(
      `${operator.id} does not tell the log-sum-exp of its rows, which attention with a sink takes`,
    );
  }
  return operator.accepts(site);
}
