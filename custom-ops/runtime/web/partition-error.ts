/** A reason not to run a model in parts: its values cannot cross between sessions, or the device cannot run one. */
export class PartitionError extends Error {
  override readonly name = 'PartitionError';
}
