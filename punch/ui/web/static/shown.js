// Which characters are shown, left out or escaped. tools/make_shown_js.py writes it.

export const FLAG = "\\u{1f3f4}[\\u{e0061}-\\u{e007a}]{2}[\\u{e0061}-\\u{e007a}\\u{e0030}-\\u{e0039}]{1,4}\\u{e007f}";
export const DROPPED = "\\u{61c}-\\u{61c}\\u{200e}-\\u{200f}";
export const ISOLATES = "\\u{2066}-\\u{2068}\\u{2069}";
export const END_ISOLATE = "\u{2069}";
export const ESCAPED =
  "\\u{0}-\\u{8}\\u{b}-\\u{1f}\\u{7f}-\\u{9f}\\u{2028}-\\u{2029}\\u{202a}-\\u{202e}\\u{2066}-\\u{206f}\\u{d800}-\\u{f8ff}\\u{fdd0}-\\u{fdef}\\u{fff9}-\\u{fffb}\\u{fffe}-\\u{ffff}\\u{e0000}-\\u{e007f}\\u{f0000}-\\u{10ffff}";
