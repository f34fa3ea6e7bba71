/*
 * format.c - numbers and names as text; see format.h.
 *
 * No state but the environment's time zone. Rounding is done in integers, so
 * that 999.6 ms becomes "1.00s" and never "1000ms".
 */
#include "format.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../common/lg_clock.h"
#include "../common/lg_layout.h"

static char *duration(uint64_t ns, const char *gap, char *out, size_t size);
static bool decode(const char **text, uint32_t *code);
static unsigned width_of(uint32_t code);
static const char *below(const char *file, const char *dir);
static const char *after_packages(const char *file);
static const char *after_stdlib(const char *file);
static const char *kind_label(uint32_t kind, uint32_t method);
static const char *strange(uint32_t number);

char *
lg_format_duration(uint64_t ns, char *out, size_t size)
{
    return duration(ns, "", out, size);
}

char *
lg_format_duration_wide(uint64_t ns, char *out, size_t size)
{
    return duration(ns, " ", out, size);
}

/* Rounds to the nearest multiple and says how many there are. */
static uint64_t
rounded(uint64_t n, uint64_t unit)
{
    return n / unit + (n % unit >= unit - unit / 2 ? 1 : 0);
}

static char *
duration(uint64_t ns, const char *gap, char *out, size_t size)
{
    if (ns == LG_NONE) {
        snprintf(out, size, "-");
    }
    else if (ns == 0) {
        snprintf(out, size, "0");
    }
    else if (ns < 500) {
        snprintf(out, size, "<1%sus", gap);
    }
    else if (rounded(ns, LG_NS_PER_US) < 100) {
        snprintf(out, size, "%" PRIu64 "%sus", rounded(ns, LG_NS_PER_US), gap);
    }
    else if (rounded(ns, 10 * LG_NS_PER_US) < 1000) {
        uint64_t n = rounded(ns, 10 * LG_NS_PER_US);
        snprintf(out, size, "%" PRIu64 ".%02" PRIu64 "%sms", n / 100, n % 100, gap);
    }
    else if (rounded(ns, 100 * LG_NS_PER_US) < 1000) {
        uint64_t n = rounded(ns, 100 * LG_NS_PER_US);
        snprintf(out, size, "%" PRIu64 ".%" PRIu64 "%sms", n / 10, n % 10, gap);
    }
    else if (rounded(ns, LG_NS_PER_MS) < 1000) {
        snprintf(out, size, "%" PRIu64 "%sms", rounded(ns, LG_NS_PER_MS), gap);
    }
    else if (rounded(ns, 10 * LG_NS_PER_MS) < 1000) {
        uint64_t n = rounded(ns, 10 * LG_NS_PER_MS);
        snprintf(out, size, "%" PRIu64 ".%02" PRIu64 "%ss", n / 100, n % 100, gap);
    }
    else if (rounded(ns, 100 * LG_NS_PER_MS) < 1000) {
        uint64_t n = rounded(ns, 100 * LG_NS_PER_MS);
        snprintf(out, size, "%" PRIu64 ".%" PRIu64 "%ss", n / 10, n % 10, gap);
    }
    else if (rounded(ns, LG_NS_PER_S) < 3600) {
        uint64_t n = rounded(ns, LG_NS_PER_S);
        snprintf(out, size, "%" PRIu64 "m%02" PRIu64 "s", n / 60, n % 60);
    }
    else if (ns / LG_NS_PER_S < 100 * 3600) {
        uint64_t n = rounded(ns, LG_NS_PER_S) / 60;
        snprintf(out, size, "%" PRIu64 "h%02" PRIu64 "m", n / 60, n % 60);
    }
    else {
        uint64_t n = ns / LG_NS_PER_S / 3600;
        snprintf(out, size, "%" PRIu64 "d%02" PRIu64 "h", n / 24, n % 24);
    }
    return out;
}

char *
lg_format_age(uint64_t ns, char *out, size_t size)
{
    uint64_t s = ns / LG_NS_PER_S;
    if (ns == LG_NONE) {
        snprintf(out, size, "-");
    }
    else if (s < 3600) {
        snprintf(out, size, "%02" PRIu64 ":%02" PRIu64, s / 60, s % 60);
    }
    else {
        lg_format_uptime(ns, out, size);
    }
    return out;
}

char *
lg_format_age_short(uint64_t ns, char *out, size_t size)
{
    uint64_t s = ns / LG_NS_PER_S;
    if (ns == LG_NONE) {
        snprintf(out, size, "-");
    }
    else if (s < 60) {
        snprintf(out, size, "%" PRIu64 "s", s);
    }
    else if (s < 3600) {
        snprintf(out, size, "%" PRIu64 "m", s / 60);
    }
    else if (s < 2 * 86400) {
        snprintf(out, size, "%" PRIu64 "h", s / 3600);
    }
    else {
        snprintf(out, size, "%" PRIu64 "d", s / 86400);
    }
    return out;
}

char *
lg_format_ms(uint64_t ns, char *out, size_t size)
{
    if (ns == LG_NONE) {
        snprintf(out, size, "-");
        return out;
    }
    uint64_t us = ns / LG_NS_PER_US;
    if (us % 1000 == 0) {
        snprintf(out, size, "%" PRIu64, us / 1000);
        return out;
    }
    int n = snprintf(out, size, "%" PRIu64 ".%03" PRIu64, us / 1000, us % 1000);
    while (n > 0 && (size_t)n < size && out[n - 1] == '0') {
        out[--n] = '\0';
    }
    return out;
}

char *
lg_format_uptime(uint64_t ns, char *out, size_t size)
{
    if (ns == LG_NONE) {
        snprintf(out, size, "-");
        return out;
    }
    uint64_t s = ns / LG_NS_PER_S;
    uint64_t days = s / 86400;
    s %= 86400;
    if (days > 0) {
        snprintf(out, size, "%" PRIu64 "d %02" PRIu64 ":%02" PRIu64 ":%02" PRIu64, days, s / 3600,
                 s / 60 % 60, s % 60);
    }
    else {
        snprintf(out, size, "%02" PRIu64 ":%02" PRIu64 ":%02" PRIu64, s / 3600, s / 60 % 60,
                 s % 60);
    }
    return out;
}

char *
lg_format_clock(uint64_t real_ns, uint64_t now_real_ns, bool ms, char *out, size_t size)
{
    if (real_ns == LG_NONE || real_ns == 0) {
        snprintf(out, size, "-");
        return out;
    }
    time_t then = (time_t)(real_ns / LG_NS_PER_S);
    time_t now = (time_t)(now_real_ns / LG_NS_PER_S);
    struct tm t = {0};
    struct tm today = {0};
    /* A damaged segment may hold a year that struct tm cannot. */
    if (localtime_r(&then, &t) == NULL || t.tm_year > 8099) {
        snprintf(out, size, "?");
        return out;
    }
    char date[16] = "";
    if (now_real_ns != 0 && localtime_r(&now, &today) != NULL &&
        (t.tm_yday != today.tm_yday || t.tm_year != today.tm_year)) {
        strftime(date, sizeof(date), "%Y-%m-%d ", &t);
    }
    char part[8] = "";
    if (ms) {
        snprintf(part, sizeof(part), ".%03u", (unsigned)(real_ns / LG_NS_PER_MS % 1000));
    }
    snprintf(out, size, "%s%02u:%02u:%02u%s", date, (unsigned)t.tm_hour % 100,
             (unsigned)t.tm_min % 100, (unsigned)t.tm_sec % 100, part);
    return out;
}

char *
lg_format_count(uint64_t n, char *out, size_t size)
{
    if (n == LG_NONE) {
        snprintf(out, size, "-");
        return out;
    }
    char digits[24];
    int length = snprintf(digits, sizeof(digits), "%" PRIu64, n);
    size_t at = 0;
    for (int i = 0; i < length && at + 2 < size; i++) {
        if (i > 0 && (length - i) % 3 == 0) {
            out[at++] = ',';
        }
        out[at++] = digits[i];
    }
    out[at < size ? at : size - 1] = '\0';
    return out;
}

char *
lg_format_rate(double per_s, char *out, size_t size)
{
    if (!(per_s >= 0)) {
        snprintf(out, size, "-");
    }
    else if (per_s == 0) {
        snprintf(out, size, "0");
    }
    else if (per_s < 0.005) {
        snprintf(out, size, "<0.01");
    }
    else if (per_s < 0.095) {
        snprintf(out, size, "%.2f", per_s);
    }
    else if (per_s < 99.95) {
        snprintf(out, size, "%.1f", per_s);
    }
    else if (per_s < 1e15) {
        snprintf(out, size, "%.0f", per_s);
    }
    else {
        snprintf(out, size, "?");
    }
    return out;
}

char *
lg_format_share(double share, char *out, size_t size)
{
    double percent = share * 100;
    if (!(share >= 0)) {
        snprintf(out, size, "-");
    }
    else if (share == 0) {
        snprintf(out, size, "0");
    }
    else if (percent < 0.005) {
        snprintf(out, size, "<0.01%%");
    }
    else if (percent < 0.995) {
        snprintf(out, size, "%.2f%%", percent);
    }
    else if (percent < 99.95) {
        snprintf(out, size, "%.1f%%", percent);
    }
    else {
        snprintf(out, size, "%.0f%%", percent < 1e6 ? percent : 1e6);
    }
    return out;
}

char *
lg_format_bytes(uint64_t bytes, char *out, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    if (bytes == LG_NONE) {
        snprintf(out, size, "-");
        return out;
    }
    double n = (double)bytes;
    size_t unit = 0;
    while (n >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        n /= 1024;
        unit++;
    }
    snprintf(out, size, unit == 0 ? "%.0f %s" : "%.1f %s", n, units[unit]);
    return out;
}

char *
lg_format_cut(const char *text, size_t columns, char *out, size_t size)
{
    if (size == 0) {
        return out;
    }
    bool whole = lg_format_columns(text) <= columns;
    size_t room = whole || columns == 0 ? columns : columns - 1;
    size_t used = 0;
    size_t at = 0;
    const char *next = text;
    uint32_t code;
    while (*text != '\0' && decode(&next, &code)) {
        size_t bytes = (size_t)(next - text);
        unsigned wide = width_of(code);
        if (used + wide > room || at + bytes + 2 > size) {
            break;
        }
        memcpy(out + at, text, bytes);
        at += bytes;
        used += wide;
        text = next;
    }
    if (*text != '\0' && columns > 0 && at + 1 < size) {
        out[at++] = '~';
    }
    out[at] = '\0';
    return out;
}

size_t
lg_format_columns(const char *text)
{
    size_t columns = 0;
    uint32_t code;
    while (*text != '\0' && decode(&text, &code)) {
        columns += width_of(code);
    }
    return columns;
}

/* One UTF-8 character; a byte that is none counts as one column. */
static bool
decode(const char **text, uint32_t *code)
{
    const unsigned char *p = (const unsigned char *)*text;
    unsigned length = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    uint32_t c = length == 1 ? p[0] : p[0] & (0xffu >> (length + 1));
    for (unsigned i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            *code = p[0];
            *text += 1;
            return true;
        }
        c = c << 6 | (p[i] & 0x3fu);
    }
    *code = c;
    *text += length;
    return true;
}

/* Not wcwidth(): that knows only ASCII in the C locale, and --once must not
 * depend on the locale. */
static unsigned
width_of(uint32_t code)
{
    static const struct {
        uint32_t first, last;
        unsigned width;
    } ranges[] = {
        {0x0300, 0x036f, 0},   {0x1100, 0x115f, 2},   {0x200b, 0x200f, 0},   {0x20d0, 0x20ff, 0},
        {0x2e80, 0x303e, 2},   {0x3041, 0xa4cf, 2},   {0xac00, 0xd7a3, 2},   {0xf900, 0xfaff, 2},
        {0xfe00, 0xfe0f, 0},   {0xfe30, 0xfe6f, 2},   {0xff00, 0xff60, 2},   {0xffe0, 0xffe6, 2},
        {0x1f300, 0x1f64f, 2}, {0x1f680, 0x1f6ff, 2}, {0x1f900, 0x1f9ff, 2}, {0x20000, 0x3fffd, 2},
    };
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        if (code >= ranges[i].first && code <= ranges[i].last) {
            return ranges[i].width;
        }
    }
    return 1;
}

enum lg_origin
lg_format_origin(const char *file, const char *cwd, const char *prefix)
{
    if (file[0] == '\0' || file[0] == '?') {
        return LG_ORIGIN_BUILTIN;
    }
    if (file[0] == '<') {
        return strncmp(file, "<frozen", 7) == 0 ? LG_ORIGIN_STDLIB : LG_ORIGIN_BUILTIN;
    }
    /* A project may live in a folder of any name: look at what is below it. */
    const char *in_project = below(file, cwd);
    const char *path = in_project != NULL ? in_project : file;
    if (after_packages(path) != NULL) {
        return LG_ORIGIN_LIBRARY;
    }
    if (after_stdlib(path) != NULL) {
        return LG_ORIGIN_STDLIB;
    }
    if (in_project == NULL && prefix[0] != '\0' && strcmp(prefix, "/usr") != 0 &&
        below(file, prefix) != NULL && below(cwd, prefix) == NULL) {
        return LG_ORIGIN_LIBRARY;
    }
    return LG_ORIGIN_USER;
}

char *
lg_format_file(const char *file, const char *cwd, const char *prefix, char *out, size_t size)
{
    const char *path = below(file, cwd);
    path = path != NULL ? path : file;
    const char *rest = after_packages(path);
    if (rest == NULL) {
        rest = after_stdlib(path);
    }
    if (rest == NULL && path == file) {
        rest = below(file, prefix);
    }
    snprintf(out, size, "%s", rest != NULL ? rest : path);
    return out;
}

const char *
lg_format_base(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : file;
}

/* What follows `dir` and its slash in `file`, or NULL. */
static const char *
below(const char *file, const char *dir)
{
    size_t n = strlen(dir);
    while (n > 0 && dir[n - 1] == '/') {
        n--;
    }
    /* "" and "/" cut nothing that a reader would miss. */
    if (n == 0 || strncmp(file, dir, n) != 0 || file[n] != '/' || file[n + 1] == '\0') {
        return NULL;
    }
    return file + n + 1;
}

static const char *
after_packages(const char *file)
{
    static const char *const names[] = {"site-packages/", "dist-packages/"};
    const char *last = NULL;
    for (size_t i = 0; i < 2; i++) {
        for (const char *p = file; (p = strstr(p, names[i])) != NULL; p++) {
            if ((p == file || p[-1] == '/') && p[strlen(names[i])] != '\0') {
                last = p + strlen(names[i]);
            }
        }
    }
    return last;
}

/* ".../lib/python3.12/json/decoder.py": "json/decoder.py". */
static const char *
after_stdlib(const char *file)
{
    for (const char *p = file; (p = strstr(p, "lib")) != NULL; p++) {
        const char *q = p + 3;
        q += strncmp(q, "64", 2) == 0 ? 2 : 0;
        if ((p != file && p[-1] != '/') || strncmp(q, "/python", 7) != 0 || q[7] < '0' ||
            q[7] > '9') {
            continue;
        }
        const char *slash = strchr(q + 7, '/');
        if (slash != NULL && slash[1] != '\0') {
            return slash + 1;
        }
    }
    return NULL;
}

char *
lg_format_python(uint32_t hex, char *out, size_t size)
{
    if (hex == 0) {
        snprintf(out, size, "-");
        return out;
    }
    unsigned level = hex >> 4 & 0xf;
    const char *tag = level == 0xa ? "a" : level == 0xb ? "b" : level == 0xc ? "rc" : "";
    int n = snprintf(out, size, "%u.%u.%u", hex >> 24, hex >> 16 & 0xff, hex >> 8 & 0xff);
    if (tag[0] != '\0' && n > 0 && (size_t)n < size) {
        snprintf(out + n, size - (size_t)n, "%s%u", tag, hex & 0xf);
    }
    return out;
}

const char *
lg_format_kind(uint32_t kind)
{
    switch (kind) {
#define LG_X(name, number, text) \
    case number: \
        return text;
        LG_ENDPOINT_KINDS(LG_X)
#undef LG_X
    default:
        return strange(kind);
    }
}

const char *
lg_format_method(uint32_t method)
{
    switch (method) {
#define LG_X(name, number, text) \
    case number: \
        return text;
        LG_METHODS(LG_X)
#undef LG_X
    default:
        return strange(method);
    }
}

const char *
lg_format_cause(uint32_t cause)
{
    switch (cause) {
#define LG_X(name, number, text) \
    case number: \
        return text;
        LG_CAUSES(LG_X)
#undef LG_X
    case LG_CAUSE_UNKNOWN:
        return "unknown";
    default:
        return strange(cause);
    }
}

const char *
lg_format_stall_kind(uint32_t kind)
{
    switch (kind) {
#define LG_X(name, number, text) \
    case number: \
        return text;
        LG_STALL_KINDS(LG_X)
#undef LG_X
    default:
        return strange(kind);
    }
}

const char *
lg_format_label(uint32_t kind, uint32_t method, const char *name)
{
    const char *label = kind_label(kind, method);
    return name != NULL && strcmp(label, name) == 0 ? "" : label;
}

static const char *
kind_label(uint32_t kind, uint32_t method)
{
    switch (kind) {
    case LG_KIND_REQUEST:
        return lg_format_method(method);
    case LG_KIND_WEBSOCKET:
        return "WS";
    case LG_KIND_LIFESPAN:
        return "(lifespan)";
    case LG_KIND_BACKGROUND:
        return "(background)";
    case LG_KIND_TASK:
        return "(task)";
    case LG_KIND_CALLBACK:
        return "(callback)";
    case LG_KIND_LOOP:
        return "(loop)";
    default:
        return strange(kind);
    }
}

/* A number of a newer minor, or damage: "?9". All numbers are one byte. */
static const char *
strange(uint32_t number)
{
    static char text[256][5];
    char *out = text[number & 0xff];
    snprintf(out, sizeof(text[0]), "?%u", number & 0xff);
    return out;
}
