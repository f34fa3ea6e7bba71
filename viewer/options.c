/*
 * options.c - the command line, from the tables of options.h.
 *
 * getopt_long() with its own messages off: ours have one form. Private to one
 * thread, as getopt is.
 */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../common/lg_clock.h"

/* Numbers of the options: above any character. */
enum top_option {
    TOP_FIRST = 1000,
#define LG_G(title)
#define LG_X(id, letter, name, argument, word, help) TOP_##id,
    LG_TOP_OPTIONS(LG_X, LG_G)
#undef LG_X
        TOP_END
};

enum dump_option {
    DUMP_FIRST = 2000,
#define LG_X(id, letter, name, argument, word, help) DUMP_##id,
    LG_DUMP_OPTIONS(LG_X, LG_G)
#undef LG_X
        DUMP_END
};
#undef LG_G

/* A row of a table, as data. title set: a group starts here. */
struct row {
    const char *title;
    int id;
    char letter;
    const char *name;
    int argument;
    const char *word;
    const char *help;
};

#define LG_G(group) {.title = (group)},
static const struct row top_rows[] = {
#define LG_X(i, c, n, a, w, h) \
    {.id = TOP_##i, .letter = (c), .name = (n), .argument = (a), .word = (w), .help = (h)},
    LG_TOP_OPTIONS(LG_X, LG_G)
#undef LG_X
};
static const struct row dump_rows[] = {
#define LG_X(i, c, n, a, w, h) \
    {.id = DUMP_##i, .letter = (c), .name = (n), .argument = (a), .word = (w), .help = (h)},
    LG_DUMP_OPTIONS(LG_X, LG_G)
#undef LG_X
};
#undef LG_G

#define MAX_ROWS 64
_Static_assert(sizeof(top_rows) / sizeof(top_rows[0]) < MAX_ROWS, "table fits");
_Static_assert(sizeof(dump_rows) / sizeof(dump_rows[0]) < MAX_ROWS, "table fits");

/* What parsing one program's arguments needs at hand. */
struct parser {
    const char *program;
    const struct row *rows;
    size_t row_count;
    struct lg_options *out;
    FILE *err;
    int (*apply)(struct parser *p, const struct row *row, const char *value);
    int (*operand)(struct parser *p, const char *value);
};

static int parse(struct parser *p, int argc, char **argv);
static const struct row *row_of(const struct parser *p, int found);
static int apply_top(struct parser *p, const struct row *row, const char *value);
static int apply_dump(struct parser *p, const struct row *row, const char *value);
static int pid_operand(struct parser *p, const char *value);
static int file_operand(struct parser *p, const char *value);
static int no_operand(struct parser *p, const char *value);
static int add_pids(struct parser *p, const char *name, const char *value);
static int add_file(struct parser *p, const char *name, const char *value);
static int number(struct parser *p, const char *name, const char *value, double low, double high,
                  const char *unit, double *out);
static int complain(struct parser *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static int parse_variable(struct parser *p);
static int check_together(struct parser *p);
static void print_rows(FILE *out, const struct row *rows, size_t count);

int
lg_options_parse_top(int argc, char **argv, struct lg_options *out, FILE *err)
{
    *out = (struct lg_options){.delay_s = 1.0, .wait_s = -1.0};
    struct parser p = {
        .program = "loopguard-top",
        .rows = top_rows,
        .row_count = sizeof(top_rows) / sizeof(top_rows[0]),
        .out = out,
        .err = err,
        .apply = apply_top,
        .operand = no_operand,
    };
    int status = parse_variable(&p);
    if (status != 0) {
        return status;
    }
    p.operand = pid_operand;
    status = parse(&p, argc, argv);
    return status != 0 || out->action != LG_ACTION_RUN ? status : check_together(&p);
}

int
lg_options_parse_dump(int argc, char **argv, struct lg_options *out, FILE *err)
{
    *out = (struct lg_options){.delay_s = 1.0, .wait_s = -1.0, .format = "text"};
    struct parser p = {
        .program = "loopguard-dump",
        .rows = dump_rows,
        .row_count = sizeof(dump_rows) / sizeof(dump_rows[0]),
        .out = out,
        .err = err,
        .apply = apply_dump,
        .operand = file_operand,
    };
    int status = parse(&p, argc, argv);
    if (status != 0 || out->action != LG_ACTION_RUN) {
        return status;
    }
    if (out->pid_count + out->file_count != 1) {
        return complain(&p, "one segment file or one --pid is needed");
    }
    return 0;
}

void
lg_options_free(struct lg_options *options)
{
    free(options->from_environment);
    options->from_environment = NULL;
}

static int
parse(struct parser *p, int argc, char **argv)
{
    char letters[3 * MAX_ROWS + 2] = ":";
    struct option longs[MAX_ROWS + 1] = {{0}};
    size_t at = 1;
    size_t count = 0;
    for (size_t i = 0; i < p->row_count; i++) {
        const struct row *row = &p->rows[i];
        if (row->title != NULL) {
            continue;
        }
        longs[count++] = (struct option){row->name, row->argument, NULL, row->id};
        if (row->letter != 0) {
            letters[at++] = row->letter;
            for (int n = 0; n < row->argument; n++) {
                letters[at++] = ':';
            }
        }
    }
    letters[at] = '\0';
    opterr = 0;
    optind = 0;                         /* glibc: start anew */
    int found;
    while ((found = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        const char *given = optind > 0 && optind <= argc ? argv[optind - 1] : "";
        if (found == '?') {
            if (optopt == 0) {
                return complain(p, "unrecognized option '%s'", given);
            }
            return optopt < TOP_FIRST ? complain(p, "invalid option -- '%c'", optopt)
                                      : complain(p, "'%s': this option takes no value", given);
        }
        if (found == ':') {
            return complain(p, "'%s': a value is missing", given);
        }
        const struct row *row = row_of(p, found);
        if (row == NULL) {
            return complain(p, "unrecognized option '%s'", given);
        }
        int status = p->apply(p, row, optarg);
        if (status != 0) {
            return status;
        }
    }
    for (int i = optind; i < argc; i++) {
        int status = p->operand(p, argv[i]);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

static const struct row *
row_of(const struct parser *p, int found)
{
    for (size_t i = 0; i < p->row_count; i++) {
        const struct row *row = &p->rows[i];
        if (row->title == NULL &&
            (row->id == found || (row->letter != 0 && row->letter == found))) {
            return row;
        }
    }
    return NULL;
}

static int
apply_top(struct parser *p, const struct row *row, const char *value)
{
    struct lg_options *o = p->out;
    double n = 0;
    int status = 0;
    switch (row->id) {
    case TOP_PID:
        return add_pids(p, "--pid: ", value);
    case TOP_NAME:
        o->name = value;
        return 0;
    case TOP_ALL:
        o->all = true;
        return 0;
    case TOP_FILE:
        return add_file(p, "--file: ", value);
    case TOP_LIST:
        o->list = true;
        return 0;
    case TOP_WAIT:
        o->wait = true;
        o->wait_s = -1;
        return value == NULL ? 0 : number(p, "--wait", value, 0, 1e9, " seconds", &o->wait_s);
    case TOP_DIR:
        o->dir = value;
        return 0;
    case TOP_PRUNE:
        o->prune = true;
        return 0;
    case TOP_SORT:
        if (strcmp(value, "help") == 0) {
            o->action = LG_ACTION_SORT_KEYS;
            return 0;
        }
        return lg_sort_from_text(value, &o->view.sort)
                   ? 0
                   : complain(p, "--sort: no such key: '%s' ('help' lists the keys)", value);
    case TOP_WINDOW:
        o->window_given = true;
        return lg_window_from_text(value, &o->view.window)
                   ? 0
                   : complain(p, "--window: '%s' is not 10s, 1m, 5m or total", value);
    case TOP_FILTER:
        o->view.filter = value;
        return 0;
    case TOP_TOP:
        status = number(p, "--top", value, 1, 1e6, "", &n);
        o->view.top = (size_t)n;
        return status;
    case TOP_MIN:
        status = number(p, "--min", value, 0, 1e9, " milliseconds", &n);
        o->view.min_ns = (uint64_t)(n * (double)LG_NS_PER_MS);
        return status;
    case TOP_EVENTS:
        o->events = true;
        return 0;
    case TOP_ONCE:
        o->once = true;
        return 0;
    case TOP_BATCH:
        o->batch = true;
        return 0;
    case TOP_JSON:
        o->json = true;
        return 0;
    case TOP_DELAY:
        return number(p, "--delay", value, 0.1, 60, " seconds", &o->delay_s);
    case TOP_COUNT:
        status = number(p, "--count", value, 1, 1e15, "", &n);
        o->count = (uint64_t)n;
        return status;
    case TOP_COLOR:
        o->color = strcmp(value, "always") == 0  ? LG_COLOR_ALWAYS
                   : strcmp(value, "never") == 0 ? LG_COLOR_NEVER
                                                 : LG_COLOR_AUTO;
        return o->color != LG_COLOR_AUTO || strcmp(value, "auto") == 0
                   ? 0
                   : complain(p, "--color: '%s' is not auto, always or never", value);
    case TOP_ASCII:
        o->ascii = true;
        return 0;
    case TOP_MOUSE:
        o->mouse = true;
        return 0;
    case TOP_BELL:
        o->bell = true;
        return 0;
    case TOP_HELP:
        o->action = LG_ACTION_HELP;
        return 0;
    default:
        o->action = LG_ACTION_VERSION;
        return 0;
    }
}

static int
apply_dump(struct parser *p, const struct row *row, const char *value)
{
    struct lg_options *o = p->out;
    switch (row->id) {
    case DUMP_PID:
        return add_pids(p, "--pid: ", value);
    case DUMP_DIR:
        o->dir = value;
        return 0;
    case DUMP_FORMAT:
        o->format = value;
        return strcmp(value, "text") == 0 || strcmp(value, "json") == 0
                   ? 0
                   : complain(p, "--format: '%s' is not text or json", value);
    case DUMP_OUTPUT:
        o->output = value;
        return 0;
    case DUMP_HELP:
        o->action = LG_ACTION_HELP;
        return 0;
    default:
        o->action = LG_ACTION_VERSION;
        return 0;
    }
}

static int
pid_operand(struct parser *p, const char *value)
{
    return add_pids(p, "", value);
}

static int
file_operand(struct parser *p, const char *value)
{
    return add_file(p, "", value);
}

static int
no_operand(struct parser *p, const char *value)
{
    return complain(p, LG_TOP_VARIABLE ": '%s' is not an option", value);
}

static int
add_pids(struct parser *p, const char *name, const char *value)
{
    const char *at = value;
    for (;;) {
        char *end;
        errno = 0;
        long pid = isdigit((unsigned char)*at) ? strtol(at, &end, 10) : 0;
        if (pid <= 0 || errno != 0 || pid > INT_MAX || (*end != ',' && *end != '\0')) {
            return complain(p, "%s'%s' is not a process number", name, value);
        }
        if (p->out->pid_count == LG_MAX_NAMED) {
            return complain(p, "%smore than %d processes", name, LG_MAX_NAMED);
        }
        p->out->pids[p->out->pid_count++] = (pid_t)pid;
        if (*end == '\0') {
            return 0;
        }
        at = end + 1;
    }
}

static int
add_file(struct parser *p, const char *name, const char *value)
{
    if (value[0] == '\0') {
        return complain(p, "%sa file name is missing", name);
    }
    if (p->out->file_count == LG_MAX_NAMED) {
        return complain(p, "%smore than %d files", name, LG_MAX_NAMED);
    }
    p->out->files[p->out->file_count++] = value;
    return 0;
}

static int
number(struct parser *p, const char *name, const char *value, double low, double high,
       const char *unit, double *out)
{
    char *end;
    errno = 0;
    double n = strtod(value, &end);
    if (end == value || *end != '\0' || errno != 0 || isnan(n) || n < low || n > high) {
        if (high >= 1e6) {
            return complain(p, "%s: '%s' is not a number%s%s from %g", name, value,
                            unit[0] != '\0' ? " of" : "", unit, low);
        }
        return complain(p, "%s: '%s' is not between %g and %g%s", name, value, low, high, unit);
    }
    *out = n;
    return 0;
}

static int
complain(struct parser *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(p->err, "%s: ", p->program);
    vfprintf(p->err, format, args);
    fprintf(p->err, "\nTry '%s --help' for more information.\n", p->program);
    va_end(args);
    return LG_EXIT_USAGE;
}

/* The options for every day. Split at blanks, no quoting: a value with a blank
 * belongs on the command line. */
static int
parse_variable(struct parser *p)
{
    const char *text = getenv(LG_TOP_VARIABLE);
    if (text == NULL || text[0] == '\0') {
        return 0;
    }
    char *words[MAX_ROWS * 2 + 2] = {(char *)p->program};
    int count = 1;
    p->out->from_environment = strdup(text);
    if (p->out->from_environment == NULL) {
        return complain(p, "%s", strerror(ENOMEM));
    }
    char *rest = p->out->from_environment;
    char *word;
    while ((word = strsep(&rest, " \t\n")) != NULL) {
        if (word[0] == '\0') {
            continue;
        }
        if (count == MAX_ROWS * 2) {
            return complain(p, LG_TOP_VARIABLE ": too many words");
        }
        words[count++] = word;
    }
    return parse(p, count, words);
}

static int
check_together(struct parser *p)
{
    struct lg_options *o = p->out;
    if (o->file_count > 0 && (o->pid_count > 0 || o->all || o->name != NULL)) {
        return complain(p, "--file goes with no other choice of workers");
    }
    if (o->pid_count > 0 && (o->all || o->name != NULL)) {
        return complain(p, "PID goes with neither --all nor --name");
    }
    if (o->list && o->batch) {
        return complain(p, "--list prints once; it does not go with --batch");
    }
    return 0;
}

void
lg_options_help_top(FILE *out)
{
    fputs(
        "Usage: loopguard-top [OPTION]... [PID]...\n"
        "  or:  loopguard-top [OPTION]... --file=FILE...\n"
        "  or:  loopguard-top --list [--json]\n"
        "Show which endpoints block the event loop of running Python workers.\n"
        "\n"
        "With no PID, watch every worker of the one application found; if there are\n"
        "several applications, ask which (or list them, when there is no terminal).\n",
        out);
    print_rows(out, top_rows, sizeof(top_rows) / sizeof(top_rows[0]));
    fputs(
        "\n"
        "The variable " LG_TOP_VARIABLE
        " may hold options for every day: \"-w 1m -U\".\n"
        "The viewer only reads; it never stops, signals or changes the worker.\n"
        "\n"
        "Exit status: 0 ok; 1 error while running; 2 wrong usage; 3 nothing to watch;\n"
        "4 not permitted; 5 not a readable segment.\n"
        "Examples:\n"
        "  loopguard-top 41207                 watch one worker\n"
        "  loopguard-top --once --json -a      all workers, for a script\n"
        "  loopguard-top -f worker.lg -e -1    events of a dead worker\n",
        out);
}

void
lg_options_help_dump(FILE *out)
{
    fputs(
        "Usage: loopguard-dump [OPTION]... FILE\n"
        "  or:  loopguard-dump [OPTION]... --pid=PID\n"
        "Write everything that a segment holds, of a live or dead worker, or a copy.\n",
        out);
    print_rows(out, dump_rows, sizeof(dump_rows) / sizeof(dump_rows[0]));
    fputs(
        "\n"
        "Of a damaged or cut file everything that is whole is written; what is not is\n"
        "said on standard error with byte offset and count.\n"
        "\n"
        "Exit status: 0 ok; 1 error while running; 2 wrong usage; 3 nothing to read;\n"
        "4 not permitted; 5 not a readable segment.\n"
        "Examples:\n"
        "  loopguard-dump worker.lg                  what a dead worker left\n"
        "  loopguard-dump --format=json --pid=41207  all of a live one, for jq\n",
        out);
}

void
lg_options_version(const char *program, FILE *out)
{
    fprintf(out, "%s %s\nReads segment layout %d.0 and later minors of it (knows %d.%d).\n",
            program, LG_VERSION, LG_ABI_MAJOR, LG_ABI_MAJOR, LG_ABI_MINOR);
}

void
lg_options_sort_keys(FILE *out)
{
    for (int i = 0; i < LG_SORT_COUNT; i++) {
        static const char *const what[] = {
#define LG_X(name, key, heading, text) text,
            LG_SORTS(LG_X)
#undef LG_X
        };
        fprintf(out, "%-10s%s\n", lg_sort_key((enum lg_sort)i), what[i]);
    }
}

bool
lg_options_use_color(const struct lg_options *options, int fd)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    if (options->color != LG_COLOR_AUTO) {
        return options->color == LG_COLOR_ALWAYS;
    }
    return (no_color == NULL || no_color[0] == '\0') && isatty(fd) && term != NULL &&
           strcmp(term, "dumb") != 0;
}

static void
print_rows(FILE *out, const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct row *row = &rows[i];
        if (row->title != NULL) {
            fprintf(out, "\n%s\n", row->title);
            continue;
        }
        char left[64];
        char letter[8] = "    ";
        if (row->letter != 0) {
            snprintf(letter, sizeof(letter), "-%c, ", row->letter);
        }
        snprintf(left, sizeof(left), "  %s--%s%s%s%s", letter, row->name,
                 row->argument == 2   ? "[="
                 : row->argument == 1 ? "="
                                      : "",
                 row->word, row->argument == 2 ? "]" : "");
        if (strlen(left) > 26) {
            fprintf(out, "%s\n%27s%s\n", left, "", row->help);
        }
        else {
            fprintf(out, "%-27s%s\n", left, row->help);
        }
    }
}
