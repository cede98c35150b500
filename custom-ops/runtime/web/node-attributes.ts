import type { Node } from '../../../rewriter/graph/node.js';
import type { Attributes, AttributeValue } from '../../operator.js';

/** The attributes that a node has, of the types that operators use. */
export function attributesOf(node: Node): Attributes {
  const attributes: Record<string, AttributeValue> = {};
  for (const attribute of node.info.attributes.values()) {
    const { type, value } = attribute;
    if (type === 'int' || type === 'float' || type === 'string' || type === 'ints' || type === 'floats')
      attributes[attribute.name] = value;
  }
  return attributes;
}
