/**
 * INT4 weights as Kimi K2 Thinking has them (specification §2.4): compressed-tensors' "pack-quantized". Routed experts
 * only, symmetric, groups of 32 along the input; w = (nibble − 8) · scale. Where others keep `X.weight`, a checkpoint holds
 * `X.weight_packed` (int32, eight values each, the first in the lowest bits), `X.weight_scale` and `X.weight_shape`.
 *
 * Shapes: O outputs, I inputs, P = ⌈I / 8⌉ words, G = ⌈I / 32⌉ groups.
 */
import { type DType, type SafeTensors, type Tensor, torch } from "@massif/torch";

export const INT4_GROUP = 32;

/** A matrix [O, I]: values from −8 to 7 (int32) and the scale of each group of 32. */
export interface Int4 {
  values_OI: Tensor;
  scale_OG: Tensor;
}

/** Rounds to 15 levels a group: scale = max(largest / 7, 1e-5), as the quantizer of quantization-aware training. The scale is
 *  rounded to `scaleDtype` first, so that what is stored is what was rounded for. */
export function quantizeInt4(w_OI: Tensor, scaleDtype: DType = "bfloat16"): Int4 {
  const I = w_OI.shape[1]!;
  const padded_OGg = torch
    .constant_pad_nd(w_OI.to("float32"), [0, -I & (INT4_GROUP - 1)])
    .unflatten(-1, [-1, INT4_GROUP]);
  const scale_OG = padded_OGg.abs().amax([-1]).div(7).clamp_min(1e-5).to(scaleDtype);
  const rounded = padded_OGg.div(scale_OG.to("float32").unsqueeze(-1)).round().clamp(-7, 7);
  return { values_OI: rounded.flatten(1).narrow(1, 0, I).to("int32"), scale_OG };
}

export function dequantizeInt4({ values_OI, scale_OG }: Int4, dtype: DType = "bfloat16"): Tensor {
  const I = values_OI.shape[1]!;
  const scale_OI = scale_OG.to("float32").repeat_interleave(INT4_GROUP, 1).narrow(1, 0, I);
  return values_OI.to("float32").mul(scale_OI).to(dtype);
}

/** Values [O, I] → words [O, P]; past the end stand zeros. */
export function packInt4(values_OI: Tensor): Tensor {
  const I = values_OI.shape[1]!;
  const nibbles_OP8 = torch.constant_pad_nd(values_OI.to("int64").add(8), [0, -I & 7]).unflatten(-1, [-1, 8]);
  const places = torch.tensor(BigInt64Array.from({ length: 8 }, (_, i) => 1n << BigInt(4 * i)));
  // The top nibble reaches the sign bit: the sum is taken modulo 2³².
  return nibbles_OP8.mul(places).sum([-1]).to("int32");
}

/** Words [O, P] → the first I values of each row. */
export function unpackInt4(packed_OP: Tensor, I: number): Tensor {
  const places = torch.tensor(Int32Array.from({ length: 8 }, (_, i) => 4 * i));
  const nibbles = packed_OP.unsqueeze(-1).bitwise_right_shift(places).bitwise_and(15);
  return nibbles.flatten(1).narrow(1, 0, I).sub(8).to("int32");
}

/** Whether a checkpoint holds `name` (`….weight`) packed. */
export const hasInt4 = (file: SafeTensors, name: string): boolean => file.has(`${name}_packed`);

/** A packed weight as a checkpoint holds it. */
export function readInt4(file: SafeTensors, name: string): Int4 {
  const [, I] = file.get(`${name}_shape`).toArray() as [number, number];
  return { values_OI: unpackInt4(file.get(`${name}_packed`), I), scale_OG: file.get(`${name}_scale`) };
}
