/*
 * options.h - the command line of loopguard-top and loopguard-dump.
 *
 * One table makes the getopt strings, --help, the manual page's section and
 * the shell completions; a test compares them.
 */
#ifndef LG_OPTIONS_H
#define LG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "model.h"

/* X(ID, short or 0, long, argument, name of the argument, help). Argument: 0
 * none, 1 required, 2 optional. LG_G(title) starts a group. */
#define LG_TOP_OPTIONS(X, LG_G) \
    LG_G("Which workers") \
    X(PID, 'p', "pid", 1, "PID[,PID]...", "watch these processes (same as PID arguments)") \
    X(NAME, 'n', "name", 1, "TEXT", "watch workers whose command line contains TEXT") \
    X(ALL, 'a', "all", 0, "", "watch every worker that can be read") \
    X(FILE, 'f', "file", 1, "FILE", "open a segment file, also of a dead process") \
    X(LIST, 'l', "list", 0, "", "list workers, live and dead, and exit") \
    X(WAIT, 't', "wait", 2, "SECONDS", "wait for the worker to appear (no number: for ever)") \
    X(DIR, 0, "dir", 1, "DIR", "where segments are (default: see the manual)") \
    X(PRUNE, 0, "prune", 0, "", "remove the files of ended workers, and exit") \
    LG_G("What to show") \
    X(SORT, 's', "sort", 1, "KEY", "sort by KEY ('help' lists the keys)") \
    X(WINDOW, 'w', "window", 1, "WINDOW", "10s, 1m, 5m or total") \
    X(FILTER, 'F', "filter", 1, "TEXT", "only endpoints that contain TEXT") \
    X(TOP, 'N', "top", 1, "N", "at most N endpoints") \
    X(MIN, 'm', "min", 1, "MS", "only blocks of at least MS milliseconds") \
    X(EVENTS, 'e', "events", 0, "", "the events screen, or with --once the events") \
    LG_G("How to show it") \
    X(ONCE, '1', "once", 0, "", "print once and exit (default if not a terminal)") \
    X(BATCH, 'b', "batch", 0, "", "print again at every interval, without a screen") \
    X(JSON, 'j', "json", 0, "", "JSON; with --batch one object a line") \
    X(DELAY, 'd', "delay", 1, "SECONDS", "time between updates, 0.1 to 60 (default 1)") \
    X(COUNT, 'c', "count", 1, "N", "stop after N updates") \
    X(COLOR, 'C', "color", 1, "WHEN", "auto, always or never") \
    X(ASCII, 'U', "ascii", 0, "", "only ASCII characters") \
    X(MOUSE, 0, "mouse", 0, "", "use the mouse") \
    X(BELL, 0, "bell", 0, "", "ring once when a block reaches the alarm time") \
    X(HELP, 'h', "help", 0, "", "this text") \
    X(VERSION, 'V', "version", 0, "", "version, and the segment layouts it can read")

#define LG_DUMP_OPTIONS(X, LG_G) \
    LG_G("What to read") \
    X(PID, 'p', "pid", 1, "PID", "the segment of this process") \
    X(DIR, 0, "dir", 1, "DIR", "where segments are (default: see the manual)") \
    LG_G("What to write") \
    X(FORMAT, 'F', "format", 1, "FORMAT", "text or json (default text)") \
    X(OUTPUT, 'o', "output", 1, "FILE", "write to FILE, beside it first, then renamed") \
    X(HELP, 'h', "help", 0, "", "this text") \
    X(VERSION, 'V', "version", 0, "", "version, and the segment layouts it can read")

enum lg_action { LG_ACTION_RUN, LG_ACTION_HELP, LG_ACTION_VERSION, LG_ACTION_SORT_KEYS };
enum lg_color { LG_COLOR_AUTO, LG_COLOR_ALWAYS, LG_COLOR_NEVER };

#define LG_MAX_NAMED 256                /* pids, files on one command line */

/* Texts point into argv or into the environment variable's private copy. */
struct lg_options {
    enum lg_action action;
    pid_t pids[LG_MAX_NAMED];
    size_t pid_count;
    const char *files[LG_MAX_NAMED];
    size_t file_count;
    const char *name;                   /* NULL = not given, as below */
    const char *dir;
    bool all;
    bool list;
    bool prune;
    bool wait;
    double wait_s;                      /* below 0 = for ever */
    struct lg_view view;                /* window, sort, filter, top, min */
    bool window_given;                  /* else the dead are shown in total */
    bool events;
    bool once;
    bool batch;
    bool json;
    double delay_s;
    uint64_t count;                     /* 0 = no limit */
    enum lg_color color;
    bool ascii;
    bool mouse;
    bool bell;
    const char *format;                 /* loopguard-dump */
    const char *output;
    char *from_environment;             /* owned */
};

/* Environment variable with options for every day, split at blanks. */
#define LG_TOP_VARIABLE "LOOPGUARD_TOP"

/* Fills `out` from the variable, then argv. 0, or enum lg_exit after a message
 * on `err` in the form of the table of words. */
int lg_options_parse_top(int argc, char **argv, struct lg_options *out, FILE *err);
int lg_options_parse_dump(int argc, char **argv, struct lg_options *out, FILE *err);
void lg_options_free(struct lg_options *options);

void lg_options_help_top(FILE *out);
void lg_options_help_dump(FILE *out);
void lg_options_version(const char *program, FILE *out);
void lg_options_sort_keys(FILE *out);

/* Colour in force: --color over NO_COLOR over auto (a terminal, TERM not dumb). */
bool lg_options_use_color(const struct lg_options *options, int fd);

#endif
