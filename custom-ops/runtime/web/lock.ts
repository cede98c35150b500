/** Runs tasks one after the other, in the order they came. */
export class Lock {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task, task);
    this.#last = result.catch(() => {});
    return result;
  }
}

/**
 * The lock that every session of this module takes. onnxruntime-web cannot run or create two sessions at a time
 * in one page or worker: it ends in a memory error that no later call survives.
 */
export const onnxRuntimeLock = new Lock();
