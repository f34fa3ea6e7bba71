/*
 * format.h - the one place where nanoseconds and names become text.
 *
 * Three significant digits and always a unit; unknown is "-", never 0. Every
 * function writes at most `size` bytes with the NUL and returns `out`, so that
 * a call can stand among printf's arguments with a buffer of its own.
 */
#ifndef LG_FORMAT_H
#define LG_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LG_TEXT 32                      /* enough for every number made here */

/* "42us" "0.42ms" "4.10ms" "41.0ms" "812ms" "1.27s" "63.0s" "12m05s" "3h02m";
 * 0 is "0", LG_NONE "-". */
char *lg_format_duration(uint64_t ns, char *out, size_t size);
/* With a space before the unit: "1.27 s". */
char *lg_format_duration_wide(uint64_t ns, char *out, size_t size);
/* Age: "00:12", "02:14:07", "3d 04:05:06"; LG_NONE "-". */
char *lg_format_age(uint64_t ns, char *out, size_t size);
/* In one unit, whole: "6s", "12m", "3h", "5d"; LG_NONE "-". */
char *lg_format_age_short(uint64_t ns, char *out, size_t size);
/* Milliseconds without unit, as short as exact: "50", "12.5". */
char *lg_format_ms(uint64_t ns, char *out, size_t size);
/* Always HH:MM:SS, with days in front: "02:14:07". */
char *lg_format_uptime(uint64_t ns, char *out, size_t size);
/* Local wall time: "14:02:31", with `ms` "14:02:31.408", of another day with
 * the date in front when `now_real_ns` is not 0. */
char *lg_format_clock(uint64_t real_ns, uint64_t now_real_ns, bool ms, char *out, size_t size);
/* "1,204"; LG_NONE "-". */
char *lg_format_count(uint64_t n, char *out, size_t size);
/* Per second: "0.5" "3.2" "212"; below 0 "-". */
char *lg_format_rate(double per_s, char *out, size_t size);
/* Share 0..1: "19.3%" "0.05%" "63%"; 0 is "0", below 0 "-". */
char *lg_format_share(double share, char *out, size_t size);
/* "3.4 MiB". */
char *lg_format_bytes(uint64_t bytes, char *out, size_t size);

/* Cuts UTF-8 text to `columns` terminal columns, a `~` at the right when
 * something was cut. */
char *lg_format_cut(const char *text, size_t columns, char *out, size_t size);
/* Terminal columns of UTF-8 text. */
size_t lg_format_columns(const char *text);

/* Where code comes from. */
enum lg_origin { LG_ORIGIN_USER, LG_ORIGIN_LIBRARY, LG_ORIGIN_STDLIB, LG_ORIGIN_BUILTIN };

/* User code: not under site-packages or dist-packages, not a standard library
 * folder (lib/pythonX.Y), not "<frozen ...>". `cwd` and `prefix` may be "". */
enum lg_origin lg_format_origin(const char *file, const char *cwd, const char *prefix);
/* Cuts cwd, site-packages, the standard library's folder or sys.prefix off:
 * "app/reports.py", "fastapi/routing.py", "json/decoder.py". */
char *lg_format_file(const char *file, const char *cwd, const char *prefix, char *out, size_t size);
/* Last component: "reports.py". */
const char *lg_format_base(const char *file);

/* "3.12.7" from PY_VERSION_HEX, "-" for 0. */
char *lg_format_python(uint32_t hex, char *out, size_t size);

/* What the kinds are called where no method stands: "POST", "WS", "task",
 * "(loop)" ... `kind` and `method` of lg_layout.h; strange numbers give "?9". */
const char *lg_format_kind(uint32_t kind);              /* contract text: "request" */
const char *lg_format_method(uint32_t method);          /* contract text: "GET" or "" */
const char *lg_format_cause(uint32_t cause);            /* "cpu", "unknown" */
const char *lg_format_stall_kind(uint32_t kind);        /* "step" */
/* "POST  /x", "(task) poll": the label before a name on a screen; "" for one that
 * is its own name, as "(loop)". */
const char *lg_format_label(uint32_t kind, uint32_t method, const char *name);

#endif
