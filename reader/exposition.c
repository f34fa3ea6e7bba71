/*
 * exposition.c - see exposition.h. A large application has tens of thousands
 * of lines: labels are written once an entry, digits by hand.
 */
#include "exposition.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../common/lg_clock.h"

struct out {
    char *at;
    size_t size;
    size_t room;
    bool failed;
};

struct labels {
    char text[2 * LG_SUMS_MAX_KEY + 256];
    size_t size;                        /* `{a="x",b="y"`, not closed; 0 = none */
};

static void put_family(struct out *out, const struct lg_family_info *info,
                       const struct lg_sums *table);
static void put_histogram(struct out *out, const struct lg_family_info *info,
                          const struct labels *labels, const uint64_t *words);
static void set_labels(struct labels *labels, const char *names, const char *key);
static void add_value(struct labels *labels, const char *value);
static void put_labels(struct out *out, const struct labels *labels, const char *le);
static void put_number(struct out *out, enum lg_family_unit unit, uint64_t n);
static void put_text(struct out *out, const char *text);
static void put(struct out *out, const char *from, size_t size);

int
lg_exposition(const struct lg_families *families, bool originals, char **text, size_t *size)
{
    struct out out = {0};
    int end = originals ? LG_FAMILY_COUNT : LG_FIRST_ORIGINAL;
    for (int i = 0; i < end; i++) {
        put_family(&out, &lg_family_info[i], &families->table[i]);
    }
    if (out.failed) {
        free(out.at);
        return -ENOMEM;
    }
    *text = out.at;
    *size = out.size;
    return 0;
}

static void
put_family(struct out *out, const struct lg_family_info *info, const struct lg_sums *table)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    put_text(out, "# HELP ");
    put_text(out, info->name);
    put_text(out, " ");
    put_text(out, info->help);
    put_text(out, "\n# TYPE ");
    put_text(out, info->name);
    put_text(out, " ");
    put_text(out, types[info->type]);
    put_text(out, "\n");
    for (uint32_t i = 0; i < table->count; i++) {
        struct labels labels;
        set_labels(&labels, info->labels, lg_sums_key(table, i));
        if (info->type == LG_HISTOGRAM) {
            put_histogram(out, info, &labels, lg_sums_words(table, i));
            continue;
        }
        put_text(out, info->name);
        put_labels(out, &labels, NULL);
        put_number(out, info->unit, lg_sums_words(table, i)[0]);
    }
}

static void
put_histogram(struct out *out, const struct lg_family_info *info, const struct labels *labels,
              const uint64_t *words)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i <= LG_BOUNDS; i++) {
        char le[32] = "+Inf";
        total += words[i];
        if (i < LG_BOUNDS) {
            lg_families_bound(i, le, sizeof(le));
        }
        put_text(out, info->name);
        put_text(out, "_bucket");
        put_labels(out, labels, le);
        put_number(out, LG_UNIT_COUNT, total);
    }
    put_text(out, info->name);
    put_text(out, "_sum");
    put_labels(out, labels, NULL);
    put_number(out, info->unit, words[LG_BOUNDS + 1]);
    put_text(out, info->name);
    put_text(out, "_count");
    put_labels(out, labels, NULL);
    put_number(out, LG_UNIT_COUNT, total);
}

/* `names` with commas, `key` with a NUL behind each value: at most
 * LG_SUMS_MAX_KEY bytes, each of which may need a backslash. */
static void
set_labels(struct labels *labels, const char *names, const char *key)
{
    labels->size = 0;
    while (names[0] != '\0') {
        size_t length = strcspn(names, ",");
        labels->text[labels->size] = labels->size == 0 ? '{' : ',';
        labels->size++;
        memcpy(labels->text + labels->size, names, length);
        labels->size += length;
        labels->text[labels->size++] = '=';
        labels->text[labels->size++] = '"';
        add_value(labels, key);
        labels->text[labels->size++] = '"';
        key += strlen(key) + 1;
        names += length + (names[length] == ',');
    }
}

static void
add_value(struct labels *labels, const char *value)
{
    for (; *value != '\0'; value++) {
        if (*value == '"' || *value == '\\' || *value == '\n') {
            labels->text[labels->size++] = '\\';
        }
        labels->text[labels->size++] = *value;
        if (*value == '\n') {
            labels->text[labels->size - 1] = 'n';
        }
    }
}

static void
put_labels(struct out *out, const struct labels *labels, const char *le)
{
    put(out, labels->text, labels->size);
    if (le != NULL) {
        put_text(out, labels->size == 0 ? "{le=\"" : ",le=\"");
        put_text(out, le);
        put_text(out, "\"");
    }
    if (labels->size != 0 || le != NULL) {
        put_text(out, "}");
    }
}

/* Whole numbers, or nanoseconds as seconds with nine digits. */
static void
put_number(struct out *out, enum lg_family_unit unit, uint64_t n)
{
    char text[32];
    char *at = text + sizeof(text);
    int decimals = unit == LG_UNIT_NS ? 9 : 0;
    *--at = '\n';
    for (int digits = 0; n != 0 || digits <= decimals; digits++) {
        if (digits == decimals && decimals != 0) {
            *--at = '.';
        }
        *--at = (char)('0' + n % 10);
        n /= 10;
    }
    *--at = ' ';
    put(out, at, (size_t)(text + sizeof(text) - at));
}

static void
put_text(struct out *out, const char *text)
{
    put(out, text, strlen(text));
}

static void
put(struct out *out, const char *from, size_t size)
{
    if (size == 0) {
        return;
    }
    if (out->at == NULL || out->room - out->size < size) {
        size_t room = 2 * out->room + size + 4096;
        char *larger = out->failed ? NULL : realloc(out->at, room);
        if (larger == NULL) {
            out->failed = true;
            return;
        }
        out->at = larger;
        out->room = room;
    }
    memcpy(out->at + out->size, from, size);
    out->size += size;
}
