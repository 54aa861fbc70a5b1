// SPDX-License-Identifier: GPL-2.0
/*
 * Changes that a host makes to files it shares by virtio-fs, told to who watches them in the guest.
 *
 * The FUSE protocol has no message for that. Here the agent of the guest carries them, by /dev/host-watch:
 *
 * - read() says which file somebody begins to watch, and that a file is not in the guest's memory any more. Until the
 *   answer comes the caller of inotify_add_watch(2) waits, so that no change after it is missed.
 * - write() takes answers and changes. Each makes stale what the guest remembers of the file, and then notifies: who
 *   reads after the event sees what is new.
 *
 * Who watches is known from the security hook for that; it never refuses. A watched file is remembered by a mark that
 * does not keep it in memory: it goes with the inode, when the file system is unmounted at the latest.
 */
#define pr_fmt(fmt) "host-watch: " fmt

#include <linux/completion.h>
#include <linux/fsnotify_backend.h>
#include <linux/hashtable.h>
#include <linux/inotify.h>
#include <linux/iversion.h>
#include <linux/lsm_hooks.h>
#include <linux/miscdevice.h>
#include <linux/pagemap.h>
#include <linux/poll.h>
#include <linux/posix_acl.h>

#include "fuse_i.h"

/* Watched files; each costs a watch on the host. */
#define MAX_WATCHED 4096
/* How long the caller of inotify_add_watch(2) waits for the host at most. */
#define PATIENCE (2 * HZ)
/* The longest text that is written at once. */
#define MAX_WRITTEN (64 * 1024)

/* What read() returns, one each time; a path of path_len bytes follows, none for a file that is gone. */
struct request {
	__u32 id;
	__u32 major;
	__u32 minor;
	__u32 path_len;
	__u64 ino;
};

/* What write() takes, one or more; a name of name_len bytes follows. */
struct change {
	__u32 id;
	/* 0: the host watches the file, or cannot. IN_Q_OVERFLOW: something was lost. IN_IGNORED: forget the file. */
	__u32 mask;
	__u32 cookie;
	__u32 name_len;
};

#define HOST_EVENTS                                                                            \
	(FS_MODIFY | FS_ATTRIB | FS_CLOSE_WRITE | FS_MOVED_FROM | FS_MOVED_TO | FS_CREATE |    \
	 FS_DELETE | FS_DELETE_SELF | FS_MOVE_SELF)

struct watched {
	struct fsnotify_mark mark;
	/* Among those known by their id, until the inode goes. */
	struct hlist_node known;
	/* Among those to be read; holds a reference then. */
	struct list_head unread;
	struct completion answered;
	u32 id;
	bool is_gone;
	dev_t dev;
	u64 ino;
	char *path;
};

/* Holds for all below. */
static DEFINE_SPINLOCK(lock);
static DEFINE_HASHTABLE(all, 8);
static LIST_HEAD(unread);
static unsigned int count;
static u32 last_id;

static DECLARE_WAIT_QUEUE_HEAD(readers);
static DEFINE_MUTEX(writing);
static struct fsnotify_group *group;
static unsigned long is_open;
/* The host did not answer in time: nobody waits for it before it does. */
static bool is_silent;

static struct watched *of(struct fsnotify_mark *mark)
{
	return container_of(mark, struct watched, mark);
}

/* The inode is leaving memory, or was deleted. */
static void freeing(struct fsnotify_mark *mark, struct fsnotify_group *group)
{
	struct watched *watched = of(mark);
	bool was_unread;

	spin_lock(&lock);
	watched->is_gone = true;
	hash_del(&watched->known);
	count--;
	was_unread = !list_empty(&watched->unread);
	if (was_unread) {
		list_del_init(&watched->unread);
	} else {
		fsnotify_get_mark(mark);
		list_add_tail(&watched->unread, &unread);
	}
	spin_unlock(&lock);
	complete_all(&watched->answered);
	if (was_unread)
		fsnotify_put_mark(mark);
	else
		wake_up(&readers);
}

static void free_watched(struct fsnotify_mark *mark)
{
	kfree(of(mark)->path);
	kfree(of(mark));
}

/* Never called: the marks ask for no events. */
static int ignore(struct fsnotify_mark *mark, u32 mask, struct inode *inode, struct inode *dir,
		  const struct qstr *name, u32 cookie)
{
	return 0;
}

static const struct fsnotify_ops ops = {
	.handle_inode_event = ignore,
	.freeing_mark = freeing,
	.free_mark = free_watched,
};

static char *path_of(struct dentry *dentry)
{
	char *buffer = __getname(), *path;

	if (!buffer)
		return NULL;
	path = dentry_path_raw(dentry, buffer, PATH_MAX);
	path = IS_ERR(path) ? NULL : kstrdup(path, GFP_KERNEL);
	__putname(buffer);
	return path;
}

static struct watched *new_watched(struct dentry *dentry)
{
	struct watched *watched = kzalloc(sizeof(*watched), GFP_KERNEL_ACCOUNT);

	if (!watched)
		return NULL;
	watched->path = path_of(dentry);
	if (!watched->path) {
		kfree(watched);
		return NULL;
	}
	fsnotify_init_mark(&watched->mark, group);
	watched->mark.flags |= FSNOTIFY_MARK_FLAG_NO_IREF;
	init_completion(&watched->answered);
	INIT_LIST_HEAD(&watched->unread);
	watched->dev = dentry->d_sb->s_dev;
	watched->ino = d_inode(dentry)->i_ino;
	return watched;
}

static struct watched *by_id(u32 id)
{
	struct watched *watched;

	hash_for_each_possible(all, watched, known, id)
		if (watched->id == id)
			return watched;
	return NULL;
}

/* The file, which the host is asked to watch if it does not yet. With a reference. */
static struct watched *ask(struct dentry *dentry)
{
	struct fsnotify_mark *mark = fsnotify_find_inode_mark(d_inode(dentry), group);
	struct watched *watched;

	if (mark)
		return of(mark);
	watched = new_watched(dentry);
	if (!watched)
		return NULL;
	spin_lock(&lock);
	if (count == MAX_WATCHED) {
		spin_unlock(&lock);
		pr_warn_ratelimited("%u files are watched; changes of more are not told\n", count);
		fsnotify_put_mark(&watched->mark);
		return NULL;
	}
	count++;
	do
		last_id++;
	while (!last_id || by_id(last_id));
	watched->id = last_id;
	hash_add(all, &watched->known, watched->id);
	spin_unlock(&lock);
	if (fsnotify_add_inode_mark(&watched->mark, d_inode(dentry), 0)) {
		/* Somebody else was first. */
		spin_lock(&lock);
		hash_del(&watched->known);
		count--;
		spin_unlock(&lock);
		fsnotify_put_mark(&watched->mark);
		mark = fsnotify_find_inode_mark(d_inode(dentry), group);
		return mark ? of(mark) : NULL;
	}
	spin_lock(&lock);
	if (!watched->is_gone && list_empty(&watched->unread)) {
		fsnotify_get_mark(&watched->mark);
		list_add_tail(&watched->unread, &unread);
	}
	spin_unlock(&lock);
	wake_up(&readers);
	return watched;
}

static int on_path_notify(const struct path *path, u64 mask, unsigned int type)
{
	struct watched *watched;

	if (type != FSNOTIFY_OBJ_TYPE_INODE || !(mask & HOST_EVENTS) || !READ_ONCE(is_open))
		return 0;
	if (strcmp(path->dentry->d_sb->s_type->name, "virtiofs"))
		return 0;
	watched = ask(path->dentry);
	if (!watched)
		return 0;
	if (!READ_ONCE(is_silent) &&
	    !wait_for_completion_killable_timeout(&watched->answered, PATIENCE)) {
		WRITE_ONCE(is_silent, true);
		pr_warn("the host does not answer; what it changes may not be told\n");
	}
	fsnotify_put_mark(&watched->mark);
	return 0;
}

/* With a reference; NULL if it is leaving memory. */
static struct inode *inode_of(struct watched *watched)
{
	struct inode *inode = NULL;

	spin_lock(&watched->mark.lock);
	if (watched->mark.flags & FSNOTIFY_MARK_FLAG_ATTACHED)
		inode = igrab(watched->mark.connector->obj);
	spin_unlock(&watched->mark.lock);
	return inode;
}

static void make_stale(struct inode *inode)
{
	struct fuse_inode *fi = get_fuse_inode(inode);

	spin_lock(&fi->lock);
	fi->attr_version = atomic64_inc_return(&get_fuse_conn(inode)->attr_version);
	spin_unlock(&fi->lock);
	fuse_invalidate_attr(inode);
	forget_all_cached_acls(inode);
	if (S_ISDIR(inode->i_mode))
		inode_maybe_inc_iversion(inode, false);
	else
		invalidate_inode_pages2(inode->i_mapping);
}

/* Makes the next lookup ask the host; returns what the name has meant, with a reference, if that is remembered. */
static struct inode *make_name_stale(struct inode *dir, struct qstr *name)
{
	struct dentry *parent = d_find_any_alias(dir), *child;
	struct inode *inode = NULL;

	if (!parent)
		return NULL;
	name->hash = full_name_hash(parent, name->name, name->len);
	child = d_lookup(parent, name);
	dput(parent);
	if (!child)
		return NULL;
	fuse_invalidate_entry_cache(child);
	if (d_really_is_positive(child)) {
		inode = d_inode(child);
		ihold(inode);
		make_stale(inode);
	}
	dput(child);
	return inode;
}

static void tell_of_name(struct inode *dir, u32 mask, struct qstr *name, u32 cookie,
			 struct inode *nobody)
{
	struct inode *child = make_name_stale(dir, name);
	struct inode *subject = child ? child : dir;

	if (mask & ALL_FSNOTIFY_DIRENT_EVENTS)
		fsnotify(mask, subject, FSNOTIFY_EVENT_INODE, dir, name, NULL, cookie);
	else
		/* To the directory only: who watches the file itself is told by a change of its own. */
		fsnotify(mask | FS_EVENT_ON_CHILD, subject, FSNOTIFY_EVENT_INODE, dir, name, nobody,
			 0);
	iput(child);
}

static void tell_of_loss(struct watched *watched)
{
	struct fsnotify_mark_connector *connector = READ_ONCE(watched->mark.connector);
	struct fsnotify_mark *mark;

	if (!connector)
		return;
	spin_lock(&connector->lock);
	hlist_for_each_entry(mark, &connector->list, obj_list)
		if (mark->group != group && (mark->flags & FSNOTIFY_MARK_FLAG_ATTACHED))
			fsnotify_queue_overflow(mark->group);
	spin_unlock(&connector->lock);
}

static void tell(struct watched *watched, u32 mask, u32 cookie, struct qstr *name,
		 struct inode *nobody)
{
	struct inode *inode = inode_of(watched);

	if (!inode)
		return;
	make_stale(inode);
	if (mask & FS_Q_OVERFLOW)
		tell_of_loss(watched);
	else if (name->len)
		tell_of_name(inode, mask, name, cookie, nobody);
	else
		fsnotify(mask, inode, FSNOTIFY_EVENT_INODE, NULL, NULL, inode, 0);
	/* What is deleted is not watched any more. */
	if (mask & FS_DELETE_SELF)
		__fsnotify_inode_delete(inode);
	iput(inode);
}

/* The host counts its renames, the guest its own: the two parts of one get one number of the guest's. */
static u32 cookie_for(u32 of_host)
{
	static u32 last_of_host, ours;

	if (of_host && of_host != last_of_host) {
		last_of_host = of_host;
		ours = fsnotify_get_cookie();
	}
	return of_host ? ours : 0;
}

static void apply(const struct change *change, const char *text, struct inode *nobody)
{
	struct qstr name = { .name = text, .len = change->name_len };
	struct watched *watched;

	spin_lock(&lock);
	watched = by_id(change->id);
	if (watched)
		fsnotify_get_mark(&watched->mark);
	spin_unlock(&lock);
	if (!watched)
		return;
	if (!change->mask)
		complete_all(&watched->answered);
	else if (change->mask & FS_IN_IGNORED)
		fsnotify_destroy_mark(&watched->mark, group);
	else if (change->mask & (HOST_EVENTS | FS_Q_OVERFLOW))
		tell(watched, change->mask & (HOST_EVENTS | FS_ISDIR | FS_Q_OVERFLOW),
		     cookie_for(change->cookie), &name, nobody);
	fsnotify_put_mark(&watched->mark);
}

static ssize_t host_watch_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	char name[NAME_MAX + 1];
	struct change change;
	size_t done = 0;
	char *bytes;

	if (size > MAX_WRITTEN)
		return -EMSGSIZE;
	bytes = memdup_user(from, size);
	if (IS_ERR(bytes))
		return PTR_ERR(bytes);
	WRITE_ONCE(is_silent, false);
	mutex_lock(&writing);
	while (size - done >= sizeof(change)) {
		memcpy(&change, bytes + done, sizeof(change));
		if (change.name_len > NAME_MAX || change.name_len > size - done - sizeof(change))
			break;
		memcpy(name, bytes + done + sizeof(change), change.name_len);
		name[change.name_len] = 0;
		apply(&change, name, file_inode(file));
		done += sizeof(change) + change.name_len;
	}
	mutex_unlock(&writing);
	kfree(bytes);
	return done == size ? size : -EINVAL;
}

static struct watched *take_unread(void)
{
	struct watched *watched;

	spin_lock(&lock);
	watched = list_first_entry_or_null(&unread, struct watched, unread);
	if (watched)
		list_del_init(&watched->unread);
	spin_unlock(&lock);
	return watched;
}

static ssize_t host_watch_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct watched *watched;
	struct request request;
	ssize_t result;

	if (size < sizeof(request) + PATH_MAX)
		return -EINVAL;
	while (!(watched = take_unread())) {
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		result = wait_event_interruptible(readers, !list_empty(&unread));
		if (result)
			return result;
	}
	request = (struct request){
		.id = watched->id,
		.major = MAJOR(watched->dev),
		.minor = MINOR(watched->dev),
		.path_len = READ_ONCE(watched->is_gone) ? 0 : strlen(watched->path),
		.ino = watched->ino,
	};
	result = sizeof(request) + request.path_len;
	if (copy_to_user(to, &request, sizeof(request)) ||
	    copy_to_user(to + sizeof(request), watched->path, request.path_len))
		result = -EFAULT;
	fsnotify_put_mark(&watched->mark);
	return result;
}

static __poll_t host_watch_poll(struct file *file, poll_table *table)
{
	poll_wait(file, &readers, table);
	return EPOLLOUT | EPOLLWRNORM | (list_empty(&unread) ? 0 : EPOLLIN | EPOLLRDNORM);
}

static int host_watch_open(struct inode *inode, struct file *file)
{
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	return test_and_set_bit(0, &is_open) ? -EBUSY : stream_open(inode, file);
}

static int host_watch_release(struct inode *inode, struct file *file)
{
	clear_bit(0, &is_open);
	return 0;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = host_watch_open,
	.release = host_watch_release,
	.read = host_watch_read,
	.write = host_watch_write,
	.poll = host_watch_poll,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "host-watch",
	.mode = 0600,
	.fops = &operations,
};

static int __init host_watch_init(void)
{
	group = fsnotify_alloc_group(&ops, 0);
	if (IS_ERR(group))
		return PTR_ERR(group);
	return misc_register(&device);
}
device_initcall(host_watch_init);

static struct security_hook_list hooks[] __ro_after_init = {
	LSM_HOOK_INIT(path_notify, on_path_notify),
};

/* Not of the published numbers. */
static const struct lsm_id lsm_id = { .name = "host_watch", .id = 1 };

static int __init host_watch_hook(void)
{
	security_add_hooks(hooks, ARRAY_SIZE(hooks), &lsm_id);
	return 0;
}

/* Last: what the others refuse is not watched. */
DEFINE_LSM(host_watch) = {
	.name = "host_watch",
	.order = LSM_ORDER_LAST,
	.init = host_watch_hook,
};
