import { InputError } from '../errors.js';

/** An error about a model, naming its file where it has one. */
export function modelError(
  { file }: { readonly file: string | null },
  what: string,
  remedy: string,
  cause?: unknown,
): InputError {
  return new InputError(
    `${file ?? 'model'}: ${what}`,
    file === null ? { remedy } : { file, remedy },
    cause === undefined ? undefined : { cause },
  );
}
