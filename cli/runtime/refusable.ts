import { InputError } from '../../rewriter/errors.js';

/**
 * Loads or runs a model. What the runtime refuses is the model's or the inputs' fault, unless the error says whose.
 * @throws InputError in place of whatever else `action` throws
 */
export async function refusable<T>(model: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(
      `${model}: the model does not run: ${(error as Error).message}`,
      { file: model, remedy: 'Check the model and its inputs; another --length may help.' },
      { cause: error },
    );
  }
}
