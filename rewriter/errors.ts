/**
 * An error that is the user's to fix: bad usage or bad input. The message names the file, the node where
 * there is one, and the remedy. The command line prints it without a stack trace and exits with code 2.
 */
export class InputError extends Error {
  override readonly name = 'InputError';

  constructor(
    message: string,
    readonly details: { readonly file?: string; readonly node?: string; readonly remedy?: string } = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
