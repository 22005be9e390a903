# Block YAML → one line "path=value" for each scalar: the part of YAML that people and serialisers use in cloud-init files.
#
#   ethernets:                                  ethernets.lan.match.macaddress=52:54:00:11:22:33
#     lan:                                      ethernets.lan.addresses.0=10.83.0.10/24
#       match: {macaddress: "52:54:00:11:22:33"}
#       addresses: [10.83.0.10/24]
#
# Understood: maps, lists (at any indent, also "- - x" and "- key: x"), plain, 'single' and "double" quoted scalars on one
# line, | and > blocks with their chomping marks, flow lists and maps of one level, comments. In a value, a backslash is \\
# and a newline \n: read it back with printf %b. Not understood: anchors, tags, scalars over several lines, nested flow.

function indent_of(s) { match(s, /^ */); return RLENGTH }
function pop_while_deeper(limit, same_item, same_key) {
  while (depth > 0 && (at[depth] > limit || (at[depth] == limit && (kind[depth] == "item" ? same_item : same_key)))) depth--
}
function push(indent, name, what) { depth++; at[depth] = indent; part[depth] = name; kind[depth] = what }
function path(   i, p) { p = part[1]; for (i = 2; i <= depth; i++) p = p "." part[i]; return p }
function plain(s) { gsub(/\\/, "\\\\", s); return s }
function scalar(s) { # one scalar without its quotes
  sub(/^[ \t]+/, "", s); sub(/[ \t]+$/, "", s)
  if (s ~ /^"/) { sub(/"[ \t]*(#.*)?$/, "", s); s = substr(s, 2); gsub(/\\"/, "\"", s); gsub(/\\\//, "/", s); return s }
  if (s ~ /^'/) { sub(/'[ \t]*(#.*)?$/, "", s); s = substr(s, 2); gsub(/''/, "'", s); return plain(s) }
  sub(/[ \t]+#.*$/, "", s)
  return plain(s)
}
function flow(s, prefix,   list, inner, n, piece, c, quote, i, key) {
  list = s ~ /^\[/
  if (prefix != "") prefix = prefix "."
  s = substr(s, 2); sub(/(\]|\})[ \t]*(#.*)?$/, "", s)
  n = 0; piece = ""; quote = ""
  for (i = 1; i <= length(s) + 1; i++) {
    c = i > length(s) ? "," : substr(s, i, 1)
    if (quote != "") { if (c == quote && !(quote == "\"" && substr(s, i - 1, 1) == "\\")) quote = ""; if (i <= length(s)) { piece = piece c; continue } }
    if (c == "\"" || c == "'") { quote = c; piece = piece c; continue }
    if (c != ",") { piece = piece c; continue }
    if (piece ~ /[^ \t]/) {
      if (list) print prefix n++ "=" scalar(piece)
      else { key = piece; sub(/:.*/, "", key); sub(/^[^:]*:/, "", piece); print prefix scalar(key) "=" scalar(piece) }
    }
    piece = ""
  }
}
function value(s) {
  if (s ~ /^[|>][-+0-9]*[ \t]*(#.*)?$/) {
    block = 1; block_fold = s ~ /^>/; block_strip = s ~ /^[|>][0-9]*-/; block_keep = s ~ /^[|>][0-9]*\+/
    block_parent = at[depth]; block_indent = -1; block_text = ""; block_path = path(); blanks = 0
  } else if (s ~ /^[\[{]/) flow(s, path())
  else print path() "=" scalar(s)
}
function end_block(   i) {
  if (!block) return
  block = 0
  if (block_keep) for (i = 0; i < blanks; i++) block_text = block_text "\\n"
  if (block_strip) sub(/\\n$/, "", block_text)
  print block_path "=" block_text
}
{
  sub(/\r$/, "")
  if (block) {
    if ($0 ~ /^ *$/) { blanks++; next }
    here = indent_of($0)
    if (block_indent < 0 && here > block_parent) block_indent = here
    if (block_indent >= 0 && here >= block_indent) {
      if (block_fold && !blanks && block_text != "") sub(/\\n$/, " ", block_text)
      for (; blanks > 0; blanks--) block_text = block_text "\\n"
      block_text = block_text plain(substr($0, block_indent + 1)) "\\n"
      next
    }
    end_block()
  }
  if ($0 ~ /^ *(#.*)?$/ || $0 ~ /^(---|\.\.\.)/) next
  here = indent_of($0)
  rest = substr($0, here + 1)
  while (rest ~ /^-([ ]|$)/) {
    pop_while_deeper(here, 1, 0)
    owner = path()
    push(here, count[owner] + 0, "item")
    count[owner]++
    if (!match(rest, /^- +/)) { rest = ""; break }
    here += RLENGTH
    rest = substr(rest, RLENGTH + 1)
  }
  if (rest == "") next
  if (match(rest, /^("[^"]*"|'[^']*'|[^"'#{\[][^#]*)[ ]*:([ ]|$)/)) {
    # the first ": " that is not in quotes ends the key
    if (rest ~ /^["']/) { key = substr(rest, 1, RLENGTH); tail = substr(rest, RLENGTH + 1); sub(/:[ ]*$/, "", key) }
    else { cut = match(rest, /:([ ]|$)/); key = substr(rest, 1, cut - 1); tail = substr(rest, cut + 1) }
    sub(/^[ \t]+/, "", tail)
    pop_while_deeper(here, 1, 1)
    push(here, scalar(key), "key")
    if (tail != "" && tail !~ /^#/) value(tail)
  } else value(rest)
}
END { end_block() }
