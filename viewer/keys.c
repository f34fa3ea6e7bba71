/*
 * keys.c - the table of keys.h, looked up and printed. No state.
 */
#include "keys.h"

#include <string.h>

#include "canvas.h"

/* One element of the table, as data. */
struct element {
    enum { COLUMN, GROUP, HELP, KEY } what;
    const char *text;                   /* title, help text, key as shown */
    enum lg_act act;
    int code;
};

#define LG_COLUMN() {.what = COLUMN},
#define LG_GROUP(title) {.what = GROUP, .text = (title)},
#define LG_HELP(words) {.what = HELP, .text = (words)},
#define LG_KEY(name, key, shown) \
    {.what = KEY, .text = (shown), .act = LG_ACT_##name, .code = (key)},
static const struct element table[] = {LG_KEYS(LG_COLUMN, LG_GROUP, LG_HELP, LG_KEY)};
#define TABLE_SIZE (sizeof(table) / sizeof(table[0]))

enum lg_act
lg_keys_action(int key)
{
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        if (table[i].what == KEY && table[i].code == key) {
            return table[i].act;
        }
    }
    return LG_ACT_NONE;
}

char *
lg_keys_name(int key, char *out, size_t size)
{
    char utf8[5];
    if (key >= LG_KEY_F1 && key <= LG_KEY_F10) {
        snprintf(out, size, "F%d", key - LG_KEY_F1 + 1);
    }
    else if (key == LG_KEY_BACKSPACE) {
        snprintf(out, size, "Backspace");
    }
    else if (key == LG_KEY_DELETE) {
        snprintf(out, size, "Del");
    }
    else if (key < ' ') {
        snprintf(out, size, "^%c", key + '@');
    }
    else if (key < LG_KEY_FIRST) {
        lg_canvas_utf8((uint32_t)key, utf8);
        snprintf(out, size, "%s", utf8);
    }
    else {
        snprintf(out, size, "that one");
    }
    return out;
}

size_t
lg_keys_help(struct lg_help_row *rows)
{
    size_t count = 0;
    int column = 0;
    for (size_t i = 0; i < TABLE_SIZE && count < LG_HELP_ROWS; i++) {
        const struct element *e = &table[i];
        if (e->what == COLUMN) {
            column = 1;
        }
        else if (e->what != KEY) {
            rows[count++] = (struct lg_help_row){
                .column = column,
                .title = e->what == GROUP ? e->text : NULL,
                .text = e->text,
            };
        }
        else if (e->text[0] != '\0' && count > 0) {
            char *keys = rows[count - 1].keys;
            size_t n = strlen(keys);
            snprintf(keys + n, sizeof(rows[0].keys) - n, "%s%s", n > 0 ? " " : "", e->text);
        }
    }
    return count;
}

void
lg_keys_manual(FILE *out)
{
    struct lg_help_row rows[LG_HELP_ROWS];
    size_t count = lg_keys_help(rows);
    for (size_t i = 0; i < count; i++) {
        if (rows[i].title != NULL) {
            fprintf(out, ".SS %s\n", rows[i].title);
            continue;
        }
        fputs(".TP\n.B \"", out);
        for (const char *p = rows[i].keys; *p != '\0'; p++) {
            /* A bare backslash or hyphen means something to roff. */
            fputs(*p == '\\' ? "\\e" : *p == '-' ? "\\-" : (char[]){*p, '\0'}, out);
        }
        fprintf(out, "\"\n%s\n", rows[i].text);
    }
}
