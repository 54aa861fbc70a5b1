// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtiofsd holds a descriptor for each file that the guest remembers, until the guest forgets it, and may have only so
 * many of them: a program that walks a large tree once would leave none, and every open fail with ENFILE, while this
 * kernel, whose memory suffices, saw no reason to forget anything.
 *
 * fuse.max_unused: how many names that nobody uses all mounts of a connection may remember; with more each of them
 * forgets the older half of its own. What is forgotten is closed when the daemon has come to it: names that it has not
 * come to count as well, and who wants one more name waits for it. 0, the default: as many as there is memory for.
 */
#include "fuse_i.h"

#include <linux/list_lru.h>
#include <linux/module.h>

static unsigned int max_unused __read_mostly;
module_param(max_unused, uint, 0644);

static bool may_add_name(u32 opcode)
{
	switch (opcode) {
	case FUSE_LOOKUP:
	case FUSE_CREATE:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_READDIRPLUS:
		return true;
	default:
		return false;
	}
}

/* How many names are unused after some of them were forgotten, if they were too many. */
static unsigned long forget_some(struct fuse_conn *fc)
{
	unsigned long unused = 0;
	struct fuse_mount *fm;

	/* While a mount comes or goes somebody has it: the next request is soon enough. */
	if (!down_read_trylock(&fc->killsb))
		return 0;
	list_for_each_entry(fm, &fc->mounts, fc_entry)
		if (fm->sb)
			unused += list_lru_count(&fm->sb->s_dentry_lru);
	if (unused > max_unused) {
		unused = 0;
		list_for_each_entry(fm, &fc->mounts, fc_entry)
			if (fm->sb) {
				shrink_dcache_sb_by(fm->sb, list_lru_count(&fm->sb->s_dentry_lru) / 2);
				unused += list_lru_count(&fm->sb->s_dentry_lru);
			}
	}
	up_read(&fc->killsb);
	return unused;
}

/* Before a request is sent. None of those that add a name is sent while memory is reclaimed. */
void fuse_bound_unused(struct fuse_conn *fc, u32 opcode)
{
	if (!max_unused || !may_add_name(opcode))
		return;
	for (;;) {
		/* In this order: what the first forgets the second counts. */
		unsigned long unused = forget_some(fc);
		unsigned long forgetting = virtio_fs_forgetting(fc);

		if (!forgetting || unused + forgetting <= max_unused)
			return;
		if (!READ_ONCE(fc->connected) || fatal_signal_pending(current))
			return;
		schedule_timeout_killable(1);
	}
}
