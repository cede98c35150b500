export { operationCeiling, operationCount } from '../../custom-ops/multipole-attention/operation-count.js';
