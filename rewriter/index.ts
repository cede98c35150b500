/** The public interface of the package; it runs in browsers too. */
export { OPERATORS } from '../custom-ops/index.js';
export type {
  Acceptance,
  AttributeDefinition,
  Attributes,
  AttributeValue,
  Fidelity,
  OperatorDefinition,
} from '../custom-ops/operator.js';
export { InputError } from './errors.js';
export { type Findings, findSites } from './find-sites.js';
export { ModelGraph } from './graph/model-graph.js';
export { type Inspection, inspect, type ModelHeader, type SiteDescription } from './inspection.js';
export { decodeModel } from './onnx/decode.js';
export type { ModelInfo, Sidecars } from './onnx/model-info.js';
export {
  type Decision,
  decideByPlan,
  decideUniformly,
  operatorById,
  type Plan,
  type PlannedSite,
  parsePlan,
  type Settings,
  type UniformChoice,
} from './plan.js';
export type { Replacement } from './replacement-nodes.js';
export { type RewrittenModel, rewriteModel } from './rewrite-model.js';
export type {
  AttentionSite,
  Computation,
  FusionOperand,
  FusionSite,
  KeyMask,
  Layout,
  MaskKind,
  NearMiss,
  Operand,
  Site,
} from './site.js';
export type { Budgets, Difference, LengthValidation, SiteValidation, Validation } from './validation.js';
