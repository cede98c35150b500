/**
 * A KServe `InferenceService` that runs a Triton model repository.
 * @param storageUri where the cluster finds the repository: `pvc://`, `s3://`, `gs://`, `hf://`...
 */
export function inferenceService(name: string, storageUri: string, device: 'cpu' | 'gpu'): string {
  return [
    'apiVersion: serving.kserve.io/v1beta1',
    'kind: InferenceService',
    'metadata:',
    `  name: ${resourceName(name)}`,
    'spec:',
    '  predictor:',
    '    model:',
    '      modelFormat:',
    '        name: triton',
    '      protocolVersion: v2',
    `      storageUri: ${JSON.stringify(storageUri)}`,
    ...(device === 'gpu' ? ['      resources:', '        limits:', '          nvidia.com/gpu: 1'] : []),
    '',
  ].join('\n');
}

/** Kubernetes takes lower case, digits and dashes, a letter first, 63 characters at most. */
function resourceName(name: string): string {
  const plain = name.toLowerCase().replace(/[^a-z0-9]+/g, '-');
  const named = /^[a-z]/.test(plain) ? plain : `model-${plain}`;
  return named.slice(0, 63).replace(/-+$/, '');
}
