/*
 * keys.h - what every key does. The one table also prints the help and the
 * manual's section, so they cannot disagree.
 */
#ifndef LG_KEYS_H
#define LG_KEYS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A key is its character, or one of these. */
enum lg_key_code {
    LG_KEY_NOTHING = 0,
    LG_KEY_ESCAPE = 0x1b,
    LG_KEY_ENTER = '\n',
    LG_KEY_BACKSPACE = 0x7f,
    LG_KEY_FIRST = 0x110000,            /* above Unicode */
    LG_KEY_UP,
    LG_KEY_DOWN,
    LG_KEY_LEFT,
    LG_KEY_RIGHT,
    LG_KEY_PAGE_UP,
    LG_KEY_PAGE_DOWN,
    LG_KEY_HOME,
    LG_KEY_END,
    LG_KEY_BACK_TAB,
    LG_KEY_DELETE,
    LG_KEY_F1,
    LG_KEY_F2,
    LG_KEY_F3,
    LG_KEY_F4,
    LG_KEY_F5,
    LG_KEY_F6,
    LG_KEY_F7,
    LG_KEY_F8,
    LG_KEY_F9,
    LG_KEY_F10,
    LG_KEY_RESIZE,                      /* not a key: the terminal has a new size */
    LG_KEY_CLICK,                       /* lg_term_click() says where */
    LG_KEY_WHEEL_UP,
    LG_KEY_WHEEL_DOWN,
    LG_KEY_OTHER,                       /* one that nothing is bound to */
};
#define LG_CTRL(letter) ((letter) & 0x1f)

/* clang-format off */
/* COLUMN() starts the right half of the help page. GROUP(title). HELP(text)
 * starts a row, whose keys are the KEY(action, code, shown) after it; "" is
 * not shown there, the row's text names it. */
#define LG_KEYS(COLUMN, GROUP, HELP, KEY)                                                 \
    GROUP("MOVE")                                                                         \
    HELP("row up, down")                                                                  \
    KEY(UP, 'k', "k") KEY(DOWN, 'j', "j")                                                 \
    KEY(UP, LG_KEY_UP, "Up") KEY(DOWN, LG_KEY_DOWN, "Down")                               \
    KEY(UP, LG_KEY_WHEEL_UP, "") KEY(DOWN, LG_KEY_WHEEL_DOWN, "")                         \
    HELP("page (also ^B ^F)")                                                             \
    KEY(PAGE_UP, LG_KEY_PAGE_UP, "PgUp") KEY(PAGE_DOWN, LG_KEY_PAGE_DOWN, "PgDn")         \
    KEY(PAGE_UP, LG_CTRL('B'), "") KEY(PAGE_DOWN, LG_CTRL('F'), "")                       \
    HELP("half page")                                                                     \
    KEY(HALF_UP, LG_CTRL('U'), "^U") KEY(HALF_DOWN, LG_CTRL('D'), "^D")                   \
    HELP("first, last")                                                                   \
    KEY(FIRST, 'g', "g") KEY(LAST, 'G', "G")                                              \
    KEY(FIRST, LG_KEY_HOME, "Home") KEY(LAST, LG_KEY_END, "End")                          \
    HELP("scroll sideways")                                                               \
    KEY(LEFT, LG_KEY_LEFT, "Left") KEY(RIGHT, LG_KEY_RIGHT, "Right")                      \
    HELP("open the row")                                                                  \
    KEY(OPEN, LG_KEY_ENTER, "Enter") KEY(CLICK, LG_KEY_CLICK, "")                         \
    HELP("back; q leaves at top")                                                         \
    KEY(CLOSE, 'q', "q") KEY(ESCAPE, LG_KEY_ESCAPE, "Esc")                                \
    HELP("quit from anywhere")                                                            \
    KEY(QUIT, 'Q', "Q") KEY(QUIT, LG_KEY_F10, "F10")                                      \
    GROUP("SCREENS")                                                                      \
    HELP("overview")                                                                      \
    KEY(OVERVIEW, 'o', "o")                                                               \
    HELP("events")                                                                        \
    KEY(EVENTS, 'e', "e")                                                                 \
    HELP("blocked right now")                                                             \
    KEY(BLOCKED, 'b', "b")                                                                \
    HELP("all workers")                                                                   \
    KEY(WORKERS, 'a', "a")                                                                \
    HELP("thread pool")                                                                   \
    KEY(POOL, 'P', "P")                                                                   \
    HELP("previous, next worker")                                                         \
    KEY(PREVIOUS_WORKER, '[', "[") KEY(NEXT_WORKER, ']', "]")                             \
    HELP("next, prev. endpoint")                                                          \
    KEY(NEXT_ENDPOINT, 'J', "J") KEY(PREVIOUS_ENDPOINT, 'K', "K")                         \
    HELP("next, prev. screen")                                                            \
    KEY(NEXT_SCREEN, '\t', "Tab") KEY(PREVIOUS_SCREEN, LG_KEY_BACK_TAB, "S-Tab")          \
    COLUMN()                                                                              \
    GROUP("LOOK")                                                                         \
    HELP("window 10s 1m 5m total")                                                        \
    KEY(WINDOW_1, '1', "1") KEY(WINDOW_2, '2', "2")                                       \
    KEY(WINDOW_3, '3', "3") KEY(WINDOW_4, '4', "4")                                       \
    HELP("sort column left, right")                                                       \
    KEY(SORT_LEFT, '<', "<") KEY(SORT_RIGHT, '>', ">")                                    \
    HELP("sort menu, reverse")                                                            \
    KEY(SORT_MENU, 's', "s") KEY(SORT_MENU, LG_KEY_F6, "F6") KEY(SORT_MENU, '.', ".")     \
    KEY(REVERSE, 'I', "I")                                                                \
    HELP("search, next, previous")                                                        \
    KEY(SEARCH, '/', "/") KEY(SEARCH, LG_KEY_F3, "F3")                                    \
    KEY(SEARCH_NEXT, 'n', "n") KEY(SEARCH_PREVIOUS, 'N', "N")                             \
    HELP("only matches; Esc ends")                                                        \
    KEY(FILTER, '&', "&") KEY(FILTER, '\\', "\\") KEY(FILTER, LG_KEY_F4, "F4")            \
    HELP("pause / resume display")                                                        \
    KEY(PAUSE, ' ', "Space") KEY(PAUSE, 'Z', "Z") KEY(PAUSE, 'p', "p")                    \
    HELP("faster, slower, now")                                                           \
    KEY(FASTER, '+', "+") KEY(SLOWER, '-', "-") KEY(SAMPLE, LG_CTRL('T'), "^T")           \
    HELP("follow, fold library")                                                          \
    KEY(FOLLOW, 'F', "F") KEY(FOLD, 'f', "f")                                             \
    HELP("stack order, least ms")                                                         \
    KEY(ORDER, 't', "t") KEY(MINIMUM, 'T', "T")                                           \
    HELP("merge, hide dead")                                                              \
    KEY(MERGE, 'm', "m") KEY(HIDE_DEAD, 'x', "x")                                         \
    GROUP("ACT")                                                                          \
    HELP("zero the counts shown")                                                     \
    KEY(ZERO, 'r', "r")                                                                   \
    HELP("write a snapshot (JSON)")                                                       \
    KEY(WRITE, 'w', "w")                                                                  \
    HELP("show path:line to copy")                                                        \
    KEY(YANK, 'y', "y")                                                                   \
    HELP("mouse on/off")                                                                  \
    KEY(MOUSE, 'M', "M")                                                                  \
    HELP("redraw, suspend")                                                               \
    KEY(REDRAW, LG_CTRL('L'), "^L") KEY(SUSPEND, LG_CTRL('Z'), "^Z")                      \
    HELP("this help")                                                                     \
    KEY(HELP_PAGE, '?', "?") KEY(HELP_PAGE, 'h', "h") KEY(HELP_PAGE, LG_KEY_F1, "F1")
/* clang-format on */

/* Each once; the order is that of nothing. */
/* clang-format off */
#define LG_ACTIONS(X) \
    X(UP) X(DOWN) X(PAGE_UP) X(PAGE_DOWN) X(HALF_UP) X(HALF_DOWN) X(FIRST) X(LAST) X(LEFT) \
    X(RIGHT) X(OPEN) X(CLICK) X(CLOSE) X(ESCAPE) X(QUIT) X(OVERVIEW) X(EVENTS) X(BLOCKED) \
    X(WORKERS) X(POOL) X(PREVIOUS_WORKER) X(NEXT_WORKER) X(NEXT_ENDPOINT) X(PREVIOUS_ENDPOINT) \
    X(NEXT_SCREEN) X(PREVIOUS_SCREEN) X(WINDOW_1) X(WINDOW_2) X(WINDOW_3) X(WINDOW_4) \
    X(SORT_LEFT) X(SORT_RIGHT) X(SORT_MENU) X(REVERSE) X(SEARCH) X(SEARCH_NEXT) \
    X(SEARCH_PREVIOUS) X(FILTER) X(PAUSE) X(FASTER) X(SLOWER) X(SAMPLE) X(FOLLOW) X(FOLD) \
    X(ORDER) X(MINIMUM) X(MERGE) X(HIDE_DEAD) X(ZERO) X(WRITE) X(YANK) X(MOUSE) X(REDRAW) \
    X(SUSPEND) X(HELP_PAGE)
/* clang-format on */

enum lg_act {
    LG_ACT_NONE,
#define LG_X(name) LG_ACT_##name,
    LG_ACTIONS(LG_X)
#undef LG_X
};

enum lg_act lg_keys_action(int key);

/* "x", "^T", "F5", "Esc": for "No such key: x". */
char *lg_keys_name(int key, char *out, size_t size);

/* The help rows in order. A title, or keys ("k j Up Down") and their text. */
struct lg_help_row {
    int column;                         /* 0 left, 1 right */
    const char *title;                  /* NULL: a row of keys */
    char keys[24];
    const char *text;
};
#define LG_HELP_ROWS 64

/* Fills rows[LG_HELP_ROWS] and returns how many. */
size_t lg_keys_help(struct lg_help_row *rows);

/* The manual page's section, in roff. */
void lg_keys_manual(FILE *out);

#endif
