import { basename } from 'node:path';
import { InvalidArgumentError } from 'commander';

/** Parser of the name under which a server shows a model: a part of paths. */
export function modelName(text: string): string {
  if (/^[\w-][\w.-]*$/.test(text)) return text;
  throw new InvalidArgumentError('Expected letters, digits, "_", "-" and "." only.');
}

/** The name of a model that was given none: that of its file, without what paths do not take. */
export function nameOfFile(file: string): string {
  const name = basename(file, '.onnx').replace(/[^\w.-]/g, '_');
  return name.replace(/^\.+/, '') || 'model';
}
